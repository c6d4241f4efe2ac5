"""Serves what clients read: prompts, resources, templates, and completions of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from protocol.client_profiles import Profiles
from protocol.errors import INTERNAL_ERROR, INVALID_PARAMS, RESOURCE_NOT_FOUND_LEGACY
from protocol.input_required import METHODS, take_retry
from protocol.jsonrpc import Message, Object, Raw, RpcError, decode_object, encode_object
from protocol.meta import ClientMeta, client_name
from protocol.versions import Era
from workers.front.calls import FrontCall, Reply
from workers.front.catalogue import Catalogue
from workers.front.merging import Merged, cursor_of, list_result
from workers.front.questions import LegacyQuestions
from workers.front.resources import RESOURCES, TEMPLATES, Resources
from workers.front.rounds import Rounds
from workers.front.served import ServedByName
from workers.reactor import Reactor

PROMPTS_LIST: Final = "prompts/list"
PROMPTS_GET: Final = "prompts/get"
RESOURCES_LIST: Final = "resources/list"
TEMPLATES_LIST: Final = "resources/templates/list"
RESOURCES_READ: Final = "resources/read"
COMPLETE: Final = "completion/complete"
LISTS: Final[Mapping[str, str]] = {
    PROMPTS_LIST: "prompts",
    RESOURCES_LIST: RESOURCES,
    TEMPLATES_LIST: TEMPLATES,
}
"""By method: the member of the result that holds the items."""
SHOWN_CHARACTERS_MAX: Final = 200
_decode_str = msgspec.json.Decoder(str).decode

Target = tuple[str, str, bytes]
"""The server, the name or URI as it knows it, and the parameters as it is to get them."""


class Asked(msgspec.Struct, gc=False):
    """One request of a client, of either era."""

    message: Message
    meta: ClientMeta
    reply: Reply
    era: Era
    version: str
    client_info: bytes
    in_flight: dict[bytes, FrontCall] | None
    abilities: int = 0
    questions: LegacyQuestions | None = None
    log_level: str = ""
    """Of its session."""
    client: int = 0
    """The number of a modern client that can be told from others."""


class Reads:
    """Lists prompts, resources and templates, and passes on what is asked of one of them."""

    def __init__(
        self,
        reactor: Reactor,
        servers: ServedByName,
        prompts: Catalogue,
        resources: Resources,
        profiles: Profiles,
        rounds: Rounds,
        *,
        page_size: int,
        modern_meta: bytes,
    ) -> None:
        self._reactor = reactor
        self._servers = servers
        self._prompts = prompts
        self._resources = resources
        self._profiles = profiles
        self._rounds = rounds
        self._page_size = page_size
        self._modern_meta = modern_meta
        self._targets: dict[str, Callable[[Asked, bool], Target | None]] = {
            PROMPTS_GET: self._prompt,
            RESOURCES_READ: self._resource,
            COMPLETE: self._completed,
        }

    def serve(self, asked: Asked) -> bool:
        """Serve a request, if it is one of these. Errors: `RpcError`."""
        method = asked.message.method or ""
        if method in LISTS:
            self._reactor.start_soon(self._list, asked, method)
        elif method in self._targets:
            self._pass_on(asked, method)
        else:
            return False
        return True

    # --- lists ----------------------------------------------------------------------------------------------
    async def _list(self, asked: Asked, method: str) -> None:
        reply = asked.reply
        try:
            cursor = cursor_of(asked.message)
            merged = await self._merged(asked, LISTS[method])
            reply.result(
                list_result(merged, LISTS[method], cursor, self._page_size, asked.era, modern_meta=self._modern_meta)
            )
        except RpcError as error:
            reply.error(error.code, error.message, error.data)
        except Exception:
            reply.error(INTERNAL_ERROR, "The list could not be made; the log of the proxy says more")
            raise

    async def _merged(self, asked: Asked, member: str) -> Merged:
        if member == "prompts":
            return await self._prompts.merged(asked.era, self._profiles.of(client_name(asked.client_info)))
        return await self._resources.merged(member, asked.era)

    # --- what is asked of one server ------------------------------------------------------------------------
    def _pass_on(self, asked: Asked, method: str) -> None:
        retry = take_retry(asked.message.params) if method in METHODS else None
        target = self._targets[method](asked, False)
        request_id, meta = asked.message.id, asked.meta
        assert request_id is not None
        call = FrontCall(
            asked.reply, request_id, asked.era, asked.version, method, "", b"",
            meta=meta.rest, client_info=asked.client_info, progress_token=meta.progress_token,
            log_level=meta.log_level or asked.log_level, deadline=self._reactor.now,
            abilities=asked.abilities, questions=asked.questions,
            retry=retry if asked.era is Era.MODERN else None, client=asked.client,
        )  # fmt: skip
        if asked.in_flight is not None:
            call.in_flight = asked.in_flight
            asked.in_flight[request_id] = call
        asked.reply.call = call
        if target is not None:
            try:
                self._send(call, target)
            except RpcError:
                call.leave()
                raise
        else:
            self._reactor.start_soon(self._pass_on_once_listed, asked, call)

    async def _pass_on_once_listed(self, asked: Asked, call: FrontCall) -> None:
        """Find out whose it is; a front that was restarted must know what clients know."""
        if call.method != RESOURCES_READ:
            await self._prompts.learn(asked.era, self._profiles.of(client_name(asked.client_info)))
        if call.method != PROMPTS_GET:
            await self._resources.learn(asked.era)
        if asked.reply.call is not call:
            return  # cancelled meanwhile
        try:
            target = self._targets[call.method](asked, True)
            assert target is not None
            self._send(call, target)
        except RpcError as error:
            call.leave()
            asked.reply.error(error.code, error.message, error.data)

    def _send(self, call: FrontCall, target: Target) -> None:
        server_name, call.name, call.payload = target
        if call.retry is not None:
            self._rounds.resume(server_name, call)
        server = self._servers[server_name]
        call.deadline += server.timeout_s(call)
        server.submit(call)

    # --- whose it is ----------------------------------------------------------------------------------------
    # Each returns None if only lists that are not known yet can tell. With `now` it goes by what is known, or raises.
    def _prompt(self, asked: Asked, now: bool) -> Target | None:
        params = asked.message.params
        public = _text(params, "name", "prompts/get needs params.name, a string")
        owner = self._prompts.owner_now(public) if now else self._prompts.owner(public)
        if owner is None:
            if now:
                raise self._unknown_prompt(public)
            return None
        server, name = owner
        return server, name, encode_object(params | {"name": Raw(msgspec.json.encode(name))})

    def _resource(self, asked: Asked, now: bool) -> Target | None:
        params = asked.message.params
        uri = _text(params, "uri", "resources/read needs params.uri, a string")
        owner = self._resources.owner(uri) if now else self._resources.listed_owner(uri)
        if owner is None:
            if now:
                raise _unknown_resource(uri, asked.era)
            return None
        server, own = owner
        return server, own, encode_object(params | {"uri": Raw(msgspec.json.encode(own))})

    def _completed(self, asked: Asked, now: bool) -> Target | None:
        params = asked.message.params
        needs = "completion/complete needs params.ref, of type ref/prompt with a name or ref/resource with a uri"
        try:
            ref = decode_object(params["ref"], "ref")
        except (KeyError, RpcError):
            raise RpcError(INVALID_PARAMS, needs) from None
        kind = _text(ref, "type", needs)
        if kind == "ref/prompt":
            key, public = "name", _text(ref, "name", needs)
            owner = self._prompts.owner_now(public) if now else self._prompts.owner(public)
        elif kind == "ref/resource":
            key, public = "uri", _text(ref, "uri", needs)
            owner = self._resources.owner(public) if now else self._resources.listed_owner(public)
        else:
            raise RpcError(INVALID_PARAMS, needs)
        if owner is None:
            if now:
                raise RpcError(INVALID_PARAMS, f"nobody offers {public[:SHOWN_CHARACTERS_MAX]!r} to be completed")
            return None
        server, own = owner
        own_ref = encode_object(ref | {key: Raw(msgspec.json.encode(own))})
        return server, own, encode_object(params | {"ref": Raw(own_ref)})

    def _unknown_prompt(self, public: str) -> RpcError:
        near = self._prompts.nearest(public)
        advice = f"; did you mean {', '.join(near)}?" if near else ""
        return RpcError(INVALID_PARAMS, f"Prompt '{public[:SHOWN_CHARACTERS_MAX]}' not found{advice}")


def _unknown_resource(uri: str, era: Era) -> RpcError:
    """2026-07-28 took the code of its own out (server/resources, "error handling")."""
    code = INVALID_PARAMS if era is Era.MODERN else RESOURCE_NOT_FOUND_LEGACY
    shown = uri[:SHOWN_CHARACTERS_MAX]
    return RpcError(code, f"Resource not found: {shown}", b'{"uri":%b}' % msgspec.json.encode(shown))


def _text(members: Object, key: str, needs: str) -> str:
    try:
        return _decode_str(members[key])
    except (KeyError, msgspec.DecodeError):
        raise RpcError(INVALID_PARAMS, needs) from None
