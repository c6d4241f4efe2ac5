"""What to say when a server does not answer as it should: code, words, and whether the request may have been executed.

Every message names the server, says what happened and, where there is something, what to do. None quotes what the
server sent: that goes to the log only, short and escaped.
"""

from __future__ import annotations

import datetime
import email.utils
import enum
import math
import time
from typing import Final

import msgspec

from protocol.challenge import described
from protocol.errors import (
    CALL_TIMEOUT,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    OUTCOME_UNKNOWN,
    OVERLOADED,
    SERVER_UNAVAILABLE,
)
from protocol.limits import CALL_CEILING_S, QUEUE_DEADLINE_S
from workers.backend.answers import Answer, read_error
from workers.backend.endpoint import Endpoint
from workers.backend.unreachable import in_words

RETRY_AFTER_MAX_S: Final = 60
MESSAGE_CHARACTERS_MAX: Final = 1000
"""Of a server's error message, for the frame's header and the log; the error object itself goes through whole."""
QUOTED_CHARACTERS_MAX: Final = 200
QUOTED_BYTES_MAX: Final = 80
"""How much of an unusable answer is quoted in the log."""


class Says(enum.Enum):
    """What a failure says about the server, whatever it means to the call."""

    NOTHING = enum.auto()
    """It was never asked, or nobody waited for the answer."""
    WORKS = enum.auto()
    """It answered in its own right: with a JSON-RPC error, or with an HTTP status that blames the request."""
    THROTTLES = enum.auto()
    """It lives, and wants to be asked less: 429, or 503 with advice."""
    BROKEN = enum.auto()
    """It answered with HTTP 5xx, or with something that is not MCP."""
    SILENT = enum.auto()
    """It did not answer: refused, reset, timed out."""


class Failure(msgspec.Struct, frozen=True):
    """Why an exchange brought no result."""

    code: int
    message: str
    sent: bool
    """Some of the request was written, so it may have been executed."""
    retry_after_ms: int = 0
    down: bool = False
    """The server cannot be reached at all: it is time to wait for it to come back."""
    final: bool = False
    """No other way of asking will help: it wants authorization, or lives somewhere else. HTTP says so, not the body."""
    payload: bytes = b""
    """The server's own error object, if it was the server that refused."""
    says: Says = Says.NOTHING
    refused: bool = False
    """The connection was refused: nobody listens there."""
    lost: bool = False
    """The process that was to answer it has ended. Another is started in its place."""
    parked: bool = False
    """It will not be tried before `retry_after_ms`."""
    needs_input: bool = False
    """It is no failure yet: the server asks something of the client."""
    untyped: bool = False
    """It is no failure: the server has not said of what type its result is, and so it is complete."""
    became_task: bool = False
    """It is none: the server has made a task of the call."""


class Unanswered(Exception):
    """A task's request brought no answer to work with."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Faults:
    """The failures of one server, worded."""

    def __init__(self, name: str, endpoint: Endpoint, *, has_certificate: bool = False) -> None:
        """`has_certificate`: the server is shown one of ours."""
        self._name = name
        self._server = f'server "{name}"'
        self._endpoint = endpoint
        self._has_certificate = has_certificate

    # --- never sent --------------------------------------------------------------------------------------------------
    def unreachable(self, error: OSError) -> Failure:
        """No connection. `error` is what the connecting ended with."""
        text = in_words(error, self._endpoint, has_certificate=self._has_certificate)
        failure = self._unsent(SERVER_UNAVAILABLE, text, down=True, says=Says.SILENT)
        return msgspec.structs.replace(failure, refused=isinstance(error, ConnectionRefusedError))

    def pool_full(self, connections: int) -> Failure:
        text = (
            f"is overloaded: no connection of {connections} became free within {QUEUE_DEADLINE_S:g} s; try again later"
        )
        return self._unsent(OVERLOADED, text, retry_after_ms=int(QUEUE_DEADLINE_S * 1000))

    def queue_full(self) -> Failure:
        text = "is overloaded: too many requests wait for a connection; try again later"
        return self._unsent(OVERLOADED, text, retry_after_ms=int(QUEUE_DEADLINE_S * 1000))

    def too_many_sessions(self, limit: int, what: str) -> Failure:
        """`what` each client has: sessions, or processes."""
        text = (
            f"has {limit} {what} of single clients already, which is its limit (session_limit), and all are in use; "
            "try again later"
        )
        return self._unsent(OVERLOADED, text, retry_after_ms=int(QUEUE_DEADLINE_S * 1000))

    def too_many_calls(self, limit: int) -> Failure:
        return self._unsent(OVERLOADED, f"is overloaded: more than {limit} calls in flight; try again later")

    def not_ready(self, timeout_s: float) -> Failure:
        text = f"was not ready within the {_seconds(timeout_s)} the call had; it was not sent"
        return self._unsent(CALL_TIMEOUT, text, says=Says.SILENT)

    def recalled(self) -> Failure:
        """It is no failure if another replica takes the call."""
        return self._unsent(SERVER_UNAVAILABLE, "was not ready when another replica was; the call was not sent")

    def stopping(self) -> Failure:
        return self._unsent(SERVER_UNAVAILABLE, "is being disconnected: the proxy is stopping it or shutting down")

    def given_up(self, last_error: str, retry_after_s: float) -> Failure:
        """The breaker refuses. `last_error`: the message of a failure of this server."""
        last = last_error.removeprefix(f"{self._server} ")
        text = f"keeps failing, so the call was not sent; try again in {_seconds(retry_after_s)} (last failure: {last})"
        return self._unsent(SERVER_UNAVAILABLE, text, retry_after_ms=math.ceil(retry_after_s * 1000))

    def no_subscription(self) -> str:
        """Of a resource."""
        return f"{self._server} does not tell of updates of this resource"

    def internal(self) -> Failure:
        return Failure(INTERNAL_ERROR, f"the proxy failed to send the call to {self._server}; see its log", sent=False)

    def no_common_era(self) -> Failure:
        text = (
            f"answers at {self._endpoint.address}{self._endpoint.path}, but not as an MCP server of any revision "
            "this proxy speaks: check the path of the server's URL"
        )
        return self._unsent(SERVER_UNAVAILABLE, text, says=Says.BROKEN)

    def refuses_own_version(self, version: str) -> Failure:
        text = f"refuses revision {version} of MCP, which it says it supports"
        return msgspec.structs.replace(self._unsent(SERVER_UNAVAILABLE, text, says=Says.BROKEN), final=True)

    def turned_away(self, how: str) -> Failure:
        """More than once, by a server that has not looked at the request; `how` it said so."""
        text = f"does not take the request now ({how}); it was not executed, try again later"
        return self._unsent(OVERLOADED, text, retry_after_ms=int(QUEUE_DEADLINE_S * 1000), says=Says.THROTTLES)

    # --- sent --------------------------------------------------------------------------------------------------------
    def timed_out(self, timeout_s: float) -> Failure:
        longest = ", which is as long as a call may take" if timeout_s >= CALL_CEILING_S else ""
        text = (
            f"did not answer within {_seconds(timeout_s)}{longest}; the call was cancelled, but may have been executed"
        )
        return self._sent(CALL_TIMEOUT, text, says=Says.SILENT)

    def fell_silent(self, idle_s: float) -> Failure:
        text = (
            f"sent nothing more of its answer for {_seconds(idle_s)}, so the connection counts as dead; "
            "whether the call was executed is unknown"
        )
        return self._sent(OUTCOME_UNKNOWN, text, says=Says.SILENT)

    def silent(self, timeout_s: float) -> Failure:
        """Of requests that are not calls."""
        return self._sent(CALL_TIMEOUT, f"did not answer within {_seconds(timeout_s)}", says=Says.SILENT)

    def broke_off(self, where: str, *, unexplained: bool = False) -> Failure:
        """The connection ended too early; `where` says before what. `unexplained`: it is a new one, with TLS."""
        hint = " (if it wants a certificate, set client_cert)" if unexplained and not self._has_certificate else ""
        text = f"closed the connection {where}{hint}; whether the call was executed is unknown"
        return self._sent(OUTCOME_UNKNOWN, text, says=Says.SILENT)

    def cut_off(self, code: str) -> Failure:
        """The server has ended a stream of HTTP/2, or the connection, with this error code."""
        hint = ": set http2 = false for it" if code == "HTTP_1_1_REQUIRED" else ""
        text = f"broke the request off (HTTP/2 error {code}{hint}); whether the call was executed is unknown"
        return self._sent(OUTCOME_UNKNOWN, text, says=Says.SILENT)

    def cancelled(self, *, sent: bool) -> Failure:
        return Failure(INTERNAL_ERROR, "the call was cancelled", sent)

    def malformed(self, what: str) -> Failure:
        """The answer breaks HTTP, SSE or JSON-RPC; `what` continues "answered with"."""
        return self._sent(INTERNAL_ERROR, f"answered with {what}: this is a fault of that server", says=Says.BROKEN)

    def input_required(self) -> Failure:
        return Failure(INTERNAL_ERROR, f"{self._server} needs input from the client", sent=True, needs_input=True)

    def untyped(self) -> Failure:
        return Failure(INTERNAL_ERROR, f"{self._server} has sent a result without a type", sent=True, untyped=True)

    def became_task(self) -> Failure:
        failure = self.malformed("a task, which the client has not said that it takes")
        return msgspec.structs.replace(failure, became_task=True)

    def task_over(self) -> str:
        return f"{self._server}: Task not found: its result was fetched, or its time is over"

    def task_lost(self) -> str:
        return (
            f"{self._server}: the worker that kept this task has ended; the call may or may not have been executed, "
            "and its result is lost"
        )

    def client_silent(self) -> Failure:
        text = (
            "asked something that the client did not answer; the call was cancelled, but may have been executed in part"
        )
        return self._sent(OUTCOME_UNKNOWN, text, says=Says.NOTHING)

    def too_many_rounds(self, limit: int) -> Failure:
        text = f"has asked the client for input more than {limit} times in one call; the call was cancelled"
        return self._sent(INTERNAL_ERROR, text, says=Says.WORKS)

    def too_many_interactions(self, limit: int) -> Failure:
        text = f"is waiting for answers of clients in {limit} other calls; the call was cancelled, try again later"
        return self._sent(OVERLOADED, text, says=Says.WORKS)

    def unknown_interaction(self) -> Failure:
        text = (
            "does not wait for this answer any more: it was answered before, took too long, or the server's worker was "
            "restarted. The call was cancelled, its side effects may remain; make it again from the start"
        )
        return self._sent(INVALID_PARAMS, text, says=Says.NOTHING)

    def of_answer(self, answer: Answer) -> Failure:
        """An answer brought no result; say why, in the server's own words if it has any."""
        failure = self.of_status(answer)
        error = read_error(answer.reply)
        if error is None or failure.final:
            return failure
        assert answer.reply is not None
        assert answer.reply.error is not None
        message = error.message[:MESSAGE_CHARACTERS_MAX]
        payload = bytes(answer.reply.error)
        # An error under the request's own id comes from the server itself, also if it says 500 in front of it.
        says = Says.WORKS if answer.is_own and failure.says is not Says.THROTTLES else failure.says
        return Failure(
            error.code, message, sent=True, retry_after_ms=failure.retry_after_ms, payload=payload, says=says
        )

    def of_status(self, answer: Answer) -> Failure:
        """The HTTP status says all that matters."""
        status = answer.status
        if 300 <= status < 400:
            path = self._endpoint.own_path(answer.head.headers.get(b"location", b""))
            where = f"to its path {path}" if path else "elsewhere"
            text = (
                f"at host {self._endpoint.host} redirects {where} (HTTP {status}), which is not followed: "
                "configure its final URL"
            )
            return self._sent(SERVER_UNAVAILABLE, text, final=True, says=Says.BROKEN)
        if status == 407 and self._endpoint.proxy is not None:
            text = "cannot be reached: the proxy before it needs authorization (HTTP 407): name a user in its URL"
            return self._sent(SERVER_UNAVAILABLE, text, final=True, says=Says.BROKEN)
        if status in (401, 403):
            text = self.unauthorized(status, answer.head.headers.get(b"www-authenticate", b""))
            return self._sent(SERVER_UNAVAILABLE, text, final=True, says=Says.WORKS)
        if status in (429, 503):
            advice = answer.head.headers.get(b"retry-after", b"")
            advice_ms = retry_after_ms(advice, time.time())
            says = Says.THROTTLES if status == 429 or advice else Says.BROKEN
            words = "limits the rate of requests" if status == 429 else "is unavailable for now"
            later = f"try again in {advice_ms / 1000:g} s" if advice_ms else "try again later"
            code = OVERLOADED if status == 429 else SERVER_UNAVAILABLE
            return self._sent(code, f"{words} (HTTP {status}): {later}", retry_after_ms=advice_ms, says=says)
        if status in (202, 204) or (status == 200 and answer.is_empty):
            return self.malformed(f"HTTP {status} and no content, where a result was due")
        if 200 <= status < 300:
            return self.malformed("something that is no answer to the request")
        says = Says.WORKS if 400 <= status < 500 else Says.BROKEN
        return self._sent(INTERNAL_ERROR, f"failed with HTTP {status}", says=says)

    def unauthorized(self, status: int, challenge: bytes) -> str:
        """Say what is missing after a 401 or 403 with this WWW-Authenticate; continues the name of the server."""
        wanted = described(challenge)
        has_one = any(name.lower() == b"authorization" for name, _ in self._endpoint.header_fields)
        if not has_one:
            advice = "and the proxy has none for it: configure its header Authorization"
        elif status == 401:
            restart = f"mcp-bulkhead ctl restart {self._name}"
            advice = (
                f"and does not accept the header Authorization that is configured; a new value counts after {restart}"
            )
        else:
            advice = "and the header Authorization that is configured does not permit this"
        return f"needs authorization (HTTP {status}){' ' * bool(wanted)}{wanted}, {advice}"

    def in_words(self, failure: Failure) -> str:
        """Return a failure as one line for people, who have not asked the server themselves."""
        if not failure.payload:
            return failure.message
        said = "".join(char if char.isprintable() else " " for char in failure.message[:QUOTED_CHARACTERS_MAX])
        return f"{self._server} refused with error {failure.code}: {said}"

    def _unsent(
        self, code: int, text: str, *, retry_after_ms: int = 0, down: bool = False, says: Says = Says.NOTHING
    ) -> Failure:
        message = f"{self._server} {text}"
        return Failure(code, message, sent=False, retry_after_ms=retry_after_ms, down=down, says=says)

    def _sent(self, code: int, text: str, *, says: Says, retry_after_ms: int = 0, final: bool = False) -> Failure:
        message = f"{self._server} {text}"
        return Failure(code, message, sent=True, retry_after_ms=retry_after_ms, final=final, says=says)


def _seconds(duration_s: float) -> str:
    return f"{round(duration_s, 1):g} s"


def retry_after_ms(value: bytes, wall_now: float) -> int:
    """Read a Retry-After header (RFC 9110, section 10.2.3: seconds or a date), clamped to a minute; 0 for no advice."""
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        # Longer numbers are far beyond the clamp, and Python refuses to read very long ones.
        seconds = float(text[:12])
    else:
        try:
            date = email.utils.parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return 0
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        seconds = date.timestamp() - wall_now
    return int(max(0.0, min(seconds, RETRY_AFTER_MAX_S)) * 1000)


def quoted(body: bytes | bytearray | memoryview) -> str:
    """Return the beginning of an unusable answer for the log: short, and with nothing in it that could forge a line."""
    return ascii(bytes(body[:QUOTED_BYTES_MAX]).decode("utf-8", "replace"))
