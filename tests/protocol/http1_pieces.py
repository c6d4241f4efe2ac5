"""Feeds bytes to the HTTP parsers in pieces and writes down what they say, so that different cuts can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from protocol.http1 import HttpError, Request, RequestParser, ResponseError, ResponseHead, ResponseParser
from protocol.limits import BODY_BYTES_MAX

Record = tuple[Any, ...]


def one_piece(data: bytes) -> list[bytes]:
    return [data] if data else []


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def cut_at(data: bytes, positions: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(data) + 1) for position in positions}), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]


def facts(request: Request) -> dict[str, Any]:
    """Return everything a request says, its body as bytes."""
    return {
        "method": request.method,
        "target": request.target,
        "headers": dict(request.headers),
        "repeated": request.repeated,
        "http11": request.http11,
        "keep_alive": request.keep_alive,
        "expect_continue": request.expect_continue,
        "content_length": request.content_length,
        "body": bytes(request.body),
    }


def read_requests(
    pieces: Iterable[bytes], *, body_bytes_max: int = BODY_BYTES_MAX, short_way: bool = False
) -> list[Record]:
    """Return ("head" | "request", facts) in order, and ("refused", status, message) if that is how it ends.

    `short_way`: what can be read with `again` is.
    """
    records: list[Record] = []
    parser = RequestParser(
        lambda request: records.append(("head", facts(request) | {"body": b""})),
        lambda request: records.append(("request", facts(request))),
        body_bytes_max=body_bytes_max,
    )
    try:
        for piece in pieces:
            if short_way and (request := parser.again(piece)) is not None:
                records.append(("head", facts(request) | {"body": b""}))
                records.append(("request", facts(request)))
            else:
                parser.feed(piece)
    except HttpError as error:
        records.append(("refused", error.status, error.message))
    return records


class RecordingHandler:
    """Writes down a response; adjacent pieces of a body count as one."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def response_head(self, head: ResponseHead) -> None:
        self.records.append(("head", head.status, dict(head.headers), head.content_length, head.keep_alive))

    def response_body(self, chunk: bytes | bytearray | memoryview) -> None:
        if self.records[-1][0] == "body":
            self.records[-1] = ("body", self.records[-1][1] + bytes(chunk))
        elif len(chunk):
            self.records.append(("body", bytes(chunk)))

    def response_end(self) -> None:
        self.records.append(("end",))


def read_response(
    pieces: Iterable[bytes], *, method: bytes = b"POST", eof: bool = False, **options: int
) -> list[Record]:
    """Return head, body, end and ("error", message) as a parser tells them of one expected response."""
    handler = RecordingHandler()
    parser = ResponseParser(handler, **options)
    parser.expect(method)
    try:
        for piece in pieces:
            parser.feed(piece)
        if eof:
            parser.feed_eof()
    except ResponseError as error:
        handler.records.append(("error", str(error)))
    return handler.records
