"""What HTTP/2 is to us as a client: the state of one connection in the library h2, with our settings and bounds."""

from __future__ import annotations

from collections import deque
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from protocol.http2_fields import request_fields
from protocol.limits import (
    HTTP2_CONNECTION_WINDOW_BYTES,
    HTTP2_FRAME_BYTES_MAX,
    HTTP2_HEADER_LIST_BYTES_MAX,
    HTTP2_STREAM_WINDOW_BYTES,
    HTTP2_STREAMS_MAX,
    KIB,
)

FIELDS_KEPT_MAX: Final = 64
FIELDS_KEPT_BYTES_MAX: Final = 1024
"""Heads of requests that one connection remembers, as fields; they hold tokens, and so are kept no longer."""
HEADER_TABLE_BYTES_MAX: Final = 4 * KIB
"""What both sides have at first (RFC 9113, section 6.5.2). How much memory our own fields take is not theirs to say."""
SMALL_FRAME_BYTES: Final = 1 * KIB
"""A server that lets us send less at a time gets no credit for what it says to let us."""
_SECRET: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
"""Never to be compressed by whoever passes them on (RFC 7541, section 7.1.3)."""
_ENABLE_PUSH, _STREAMS, _WINDOW, _FRAME, _FIELDS = (
    SettingCodes.ENABLE_PUSH, SettingCodes.MAX_CONCURRENT_STREAMS, SettingCodes.INITIAL_WINDOW_SIZE,
    SettingCodes.MAX_FRAME_SIZE, SettingCodes.MAX_HEADER_LIST_SIZE,
)  # fmt: skip
_CONFIG: Final = H2Configuration(
    header_encoding=False, validate_outbound_headers=False, normalize_outbound_headers=False,
    validate_inbound_headers=False, normalize_inbound_headers=False,
)  # fmt: skip
"""Header fields are checked by `protocol.http2_fields`: a malformed answer is the end of its stream only."""


class Frames(H2Connection):
    """One connection's state, in a client that wants no pushed streams."""

    MAX_CLOSED_STREAMS = 1024
    """Remembered, so that what still comes on them is known to be late; 65,536 would be several megabytes."""

    def __init__(self) -> None:
        super().__init__(_CONFIG)
        self.local_settings = Settings(
            client=True,
            initial_values={
                _ENABLE_PUSH: 0, _STREAMS: HTTP2_STREAMS_MAX, _WINDOW: HTTP2_STREAM_WINDOW_BYTES,
                _FRAME: HTTP2_FRAME_BYTES_MAX, _FIELDS: HTTP2_HEADER_LIST_BYTES_MAX,
            },
        )  # fmt: skip
        self.max_inbound_frame_size = HTTP2_FRAME_BYTES_MAX
        self.decoder.max_header_list_size = HTTP2_HEADER_LIST_BYTES_MAX
        self.initiate_connection()
        self.increment_flow_control_window(HTTP2_CONNECTION_WINDOW_BYTES - self.inbound_flow_control_window)
        self._fields: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def begin(self, stream_id: int, head: bytes, length: bytes, *, is_end: bool) -> None:
        """Send the head of a request, which is given as `protocol.http2_fields.split_request` returns it."""
        fields = self._fields.get(head) or self._fields_of(head)
        if length:
            fields = [*fields, (b"content-length", length)]
        self.send_headers(stream_id, fields, end_stream=is_end)

    def send_body(self, stream_id: int, unsent: deque[memoryview]) -> int:
        """Send of a request what its windows let us send, and take that away; return how many frames it has become.

        Small ones do not count.
        """
        frames = 0
        while unsent:
            room = min(self.local_flow_control_window(stream_id), self.max_outbound_frame_size)
            if room <= 0:
                break
            piece = unsent[0][:room]
            if len(piece) < len(unsent[0]):
                unsent[0] = unsent[0][room:]
            else:
                unsent.popleft()
            self.send_data(stream_id, piece, end_stream=not unsent)
            frames += len(piece) >= SMALL_FRAME_BYTES
        return frames

    def bound_table(self) -> None:
        """Remember no more fields than we like, after the server has said how many it can."""
        encoder = self.encoder
        if encoder.header_table_size > HEADER_TABLE_BYTES_MAX:
            encoder.header_table_size = HEADER_TABLE_BYTES_MAX
            # What has been taken back is not announced first.
            encoder.table_size_changes = [min(size, HEADER_TABLE_BYTES_MAX) for size in encoder.table_size_changes]

    def _fields_of(self, head: bytes) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = [
            NeverIndexedHeaderTuple(*field) if field[0] in _SECRET else HeaderTuple(*field)
            for field in request_fields(head)
        ]
        if len(head) <= FIELDS_KEPT_BYTES_MAX:
            if len(self._fields) >= FIELDS_KEPT_MAX:
                self._fields.clear()
            self._fields[head] = fields
        return fields
