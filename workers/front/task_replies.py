"""Puts the client's handle of a task in place of the server's id, in all that is said about one request."""

from __future__ import annotations

from collections.abc import Callable

from protocol.jsonrpc import RpcError
from protocol.link import Payload
from protocol.tasks import related_renamed
from workers.front.calls import FrontCall, Questions, Reply


class RenamingReply:
    """A reply whose result is changed on its way (`workers.front.calls.Reply`).

    `handle`: what notifications that name the task are given in place of its id; "" if there are none.
    """

    def __init__(self, inner: Reply, change: Callable[[Payload], bytes], handle: str = "") -> None:
        self.client = inner.client
        self._inner = inner
        self._change = change
        self._handle = handle

    @property
    def call(self) -> FrontCall | None:
        return self._inner.call

    @call.setter
    def call(self, call: FrontCall | None) -> None:
        self._inner.call = call

    def header(self, name: bytes) -> bytes:
        return self._inner.header(name)

    def notify(self, method: str, params: Payload) -> None:
        self._inner.notify(method, related_renamed(params, self._handle) if self._handle else params)

    def ask(self, message: bytes) -> bool:
        return self._inner.ask(message)

    def result(self, result: Payload) -> None:
        try:
            changed = self._change(result)
        except RpcError as error:
            self._inner.error(error.code, error.message, error.data)
        else:
            self._inner.result(changed)

    def error(self, code: int, message: str, data: bytes = b"", retry_after_s: int = 0) -> None:
        self._inner.error(code, message, data, retry_after_s)

    def raw_error(self, error: Payload, code: int) -> None:
        self._inner.raw_error(error, code)

    def nothing(self) -> None:
        self._inner.nothing()


class RenamingQuestions:
    """Questions that a server asks while it works on a task (`workers.front.calls.Questions`)."""

    def __init__(self, inner: Questions, handle: str) -> None:
        self.client = inner.client
        self._inner = inner
        self._handle = handle

    def ask(self, call: FrontCall, number: int, method: str, params: Payload) -> bool:
        return self._inner.ask(call, number, method, related_renamed(params, self._handle))

    def withdraw(self, call: FrontCall, number: int) -> None:
        self._inner.withdraw(call, number)

    def end(self, call: FrontCall) -> None:
        self._inner.end(call)

    def forget(self, call: FrontCall) -> None:
        self._inner.forget(call)
