"""The codes of protocol/errors.py against the official schemas and the official SDK."""

from __future__ import annotations

import pytest
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS

from protocol import errors

OWN = {name: getattr(errors, name) for name in ("SERVER_UNAVAILABLE", "OUTCOME_UNKNOWN", "CALL_TIMEOUT", "OVERLOADED")}
CODES = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)]


@pytest.mark.case("A-11", "A-12", "A-13")
@pytest.mark.parametrize(("code", "status"), ERROR_CODE_HTTP_STATUS.items())
def test_a_code_has_the_same_http_status_as_in_the_official_sdk(code: int, status: int):
    assert errors.http_status(code) == status


@pytest.mark.parametrize("code", [errors.INTERNAL_ERROR, *OWN.values(), 0, 1, -32000, -32002, -32042, -32023, 10**30])
def test_every_other_code_is_an_ordinary_answer(code: int):
    assert errors.http_status(code) == 200


@pytest.mark.parametrize("name", OWN)
def test_our_own_codes_lie_outside_the_range_that_json_rpc_reserves(name: str):
    assert not -32768 <= OWN[name] <= -32000


def test_no_two_codes_are_the_same():
    assert len(CODES) == len(set(CODES)) == 14
