"""Frames of a link: layout, limits, and that nothing but what was meant decodes."""

from __future__ import annotations

import contextlib
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import link
from protocol.limits import ANSWER_BYTES_MAX, BODY_BYTES_MAX, FRAME_BYTES_MAX
from protocol.link import HEAD, HEAD_BYTES, LinkError, encode_frame, frame_length
from protocol.versions import Era

FROM_FRONT = [
    link.Hello(1, "front", 3, 0, 8_388_608),
    link.Credit(2_097_152),
    link.Call(7, Era.MODERN, "tools/call", "echo", 59.5, b'"a":1', True, "info", b'{"name":"x"}', 63),
    link.Cancel(7, "the client disconnected"),
    link.Recall(7),
    link.PauseEvents(7),
    link.ResumeEvents(7),
    link.Answered(7, 1, link.AnswerKind.ERROR),
    link.Resume(9, 1 << 61, 59.5, True, "info"),
    link.Abandon(1 << 61),
    link.Probe(),
    link.TaskAsk(9, "kept:1.2.3", "tasks/get"),
    link.ListRequest(8, Era.LEGACY, "tools", 5),
    link.Watch(9, "a:1"),
    link.Unwatch("a:1"),
    link.ClientGone(1 << 62),
    link.Want(True),
    link.Limited(),
]
FROM_WORKER = [
    link.Hello(1, "main", 12, 64, 8_388_608),
    link.Credit(2_097_152),
    link.Event(7, "notifications/progress"),
    link.Result(7, Era.LEGACY),
    link.Ask(7, 1, "elicitation/create"),
    link.Unask(7, 1),
    link.NeedInput(7, 1 << 61),
    link.Probed(True),
    link.TaskCreated(7, is_kept=True),
    link.Fault(7, -31002, "gone", True, 500, Era.MODERN),
    link.Listing(8, Era.LEGACY, "tools", 6, 60_000, True, Era.MODERN),
    link.ListFault(8, "no"),
    link.ListChanged("tools"),
    link.State("ready", "", "be kind", ["tools", "prompts"]),
    link.Watching(9, -32601, "no"),
    link.Updated("a:1/part"),
    link.Limit(21),
]
DIRECTIONS = [
    *((frame, link.decode_from_front) for frame in FROM_FRONT),
    *((frame, link.decode_from_worker) for frame in FROM_WORKER),
]


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, msgspec.Struct) else None


def test_every_kind_of_frame_is_tried_here():
    assert {type(frame) for frame in FROM_FRONT} == set(typing.get_args(link.FromFront))
    assert {type(frame) for frame in FROM_WORKER} == set(typing.get_args(link.FromWorker))


@pytest.mark.parametrize(("header", "decode"), DIRECTIONS, ids=name_of)
@pytest.mark.parametrize("payload", [b"", b'{"some":"payload"}'])
def test_a_frame_comes_back_as_it_was_sent(header: link.Header, decode, payload: bytes):
    frame = encode_frame(header, len(payload)) + payload

    length, header_length = frame_length(frame)

    assert length == len(frame)
    assert decode(memoryview(frame)[HEAD_BYTES : HEAD_BYTES + header_length]) == header
    assert frame[HEAD_BYTES + header_length :] == payload


def test_tags_of_both_directions_differ_so_that_a_frame_cannot_be_taken_for_another():
    tags = [frame.__struct_config__.tag for frame in (*FROM_FRONT, *FROM_WORKER[2:])]

    assert len(tags) == len(set(tags))


@pytest.mark.parametrize(
    ("wrong_way", "decode"),
    [
        *((frame, link.decode_from_worker) for frame in FROM_FRONT[2:]),
        *((frame, link.decode_from_front) for frame in FROM_WORKER[2:]),
    ],
    ids=name_of,
)
@pytest.mark.case("C-10", "D-29")
def test_a_frame_in_the_wrong_direction_does_not_decode(wrong_way: link.Header, decode):
    with pytest.raises(msgspec.DecodeError):
        decode(encode_frame(wrong_way)[HEAD_BYTES:])


@pytest.mark.case("C-10")
@pytest.mark.parametrize(
    ("length", "header_length"),
    [
        pytest.param(FRAME_BYTES_MAX + 1, 10, id="longer than the limit"),
        pytest.param(0xFFFFFFFF, 10, id="as long as can be said"),
        pytest.param(20, 19, id="a header that ends after the frame"),
        pytest.param(0, 0, id="shorter than its own head"),
        pytest.param(1, 0, id="one byte shorter than its own head"),
    ],
)
def test_impossible_lengths_are_refused(length: int, header_length: int):
    with pytest.raises(LinkError, match="impossible frame"):
        frame_length(HEAD.pack(length, header_length))


def test_the_largest_answer_and_the_largest_request_fit_into_a_frame():
    call = FROM_FRONT[2]
    result = FROM_WORKER[3]

    for header, payload_bytes in ((call, BODY_BYTES_MAX), (result, ANSWER_BYTES_MAX)):
        length, _ = frame_length(encode_frame(header, payload_bytes))
        assert length > payload_bytes


@given(st.integers(0, 100), st.binary(max_size=30))
def test_lengths_are_read_wherever_the_frame_begins(at: int, payload: bytes):
    frame = encode_frame(FROM_WORKER[3], len(payload)) + payload

    assert frame_length(b"\xff" * at + frame, at) == frame_length(frame)


@pytest.mark.case("C-10")
@given(st.one_of(st.binary(max_size=60), st.sampled_from(FROM_FRONT + FROM_WORKER).map(encode_frame)), st.data())
def test_a_header_with_flipped_bits_decodes_or_is_refused_in_a_known_way(frame: bytes, data: st.DataObject):
    header = bytearray(frame[HEAD_BYTES:])
    for at in data.draw(st.lists(st.integers(0, max(0, len(header) - 1)), max_size=3)) if header else []:
        header[at] ^= 1 << data.draw(st.integers(0, 7))
    for decode in (link.decode_from_front, link.decode_from_worker):
        # These two are what LinkEnd takes for a broken rule.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            decode(bytes(header))
