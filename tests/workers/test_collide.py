"""Calls with colliding ids through fronts and workers: nothing is misdelivered (`make collide` makes millions)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.collide import collide
from workers.backend.ordered import OrderedChannel
from workers.front.questions import LegacyQuestions
from workers.front.server_link import ServerLink

CALLS = 10_000
"""Each of the mistakes that are made on purpose is found within some hundred calls."""


@pytest.mark.promise("R18")
@pytest.mark.case("A-07")
@pytest.mark.case("A-26")
@pytest.mark.case("D-07")
def test_every_client_gets_its_own_answers_progress_and_questions_and_nobody_elses():
    seen = collide(seed=1, calls=CALLS)

    assert seen["answered"] + seen["cancelled"] == CALLS
    for kind in ("progress", "answers to questions", "cancelled", "cancelled at the server"):
        assert seen[kind] > CALLS / 1000, seen


def test_what_happens_is_decided_by_the_seed():
    first, again, other = collide(seed=2, calls=500), collide(seed=2, calls=500), collide(seed=3, calls=500)

    assert first == again != other


def _other_call(self: Any, header: Any, payload: Any) -> None:
    """Take some other call of the same server for the one that a frame is about."""
    header.id = next((other for other in self._in_flight if other != header.id), header.id)
    _RESULT(self, header, payload)


def _same_token(self: Any, header: Any, payload: Any) -> None:
    """Leave the worker's token where the client's own should be."""
    call = self._in_flight.get(header.id)
    if call is not None:
        call.reply.notify(header.method, payload)


def _first_question(self: Any, reply: Any) -> bool:
    """Take the oldest question for the one that was answered."""
    return _ANSWERED(self, msgspec.structs.replace(reply, id=next(iter(self._open), reply.id)))


def _oldest_request(self: Any, life: Any, message: Any) -> None:
    """Correlate by order, as if answers came in the order of the requests."""
    if life.sent and b'"result"' in message and b'"b1-' in message and len(life.sent) > 1:
        message = message.replace(message.split(b'"id":')[1].split(b",")[0], next(iter(life.sent)), 1)
    _TAKE(self, life, message)


_RESULT, _ANSWERED, _TAKE = ServerLink._result, LegacyQuestions.answered, OrderedChannel.take


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (ServerLink, "_result", _other_call),
        (ServerLink, "_event", _same_token),
        (LegacyQuestions, "answered", _first_question),
        (OrderedChannel, "take", _oldest_request),
    ],
)
def test_a_proxy_that_mixes_calls_up_is_found_out(owner: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(BaseExceptionGroup) as found:
        collide(seed=1, calls=CALLS)
    assert found.group_contains(AssertionError)
