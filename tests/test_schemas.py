"""The schema checks themselves: they accept what is right in every revision, and can say no."""

from __future__ import annotations

from typing import Any

import pytest

from tests import schemas

TOOL = {"name": "echo", "inputSchema": {"type": "object"}}
MODERN = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


@pytest.mark.parametrize("revision", schemas.REVISIONS)
def test_a_correct_list_of_tools_passes_in_every_revision(revision: str):
    result: dict[str, Any] = {"tools": [TOOL]} | (MODERN if revision == "2026-07-28" else {})

    schemas.validate_answer(revision, "tools/list", {"jsonrpc": "2.0", "id": 1, "result": result})


@pytest.mark.parametrize("revision", schemas.REVISIONS)
@pytest.mark.parametrize("wrong", [{"tools": [{"name": "echo"}]}, {"tools": "none"}, {}])
def test_a_wrong_list_of_tools_fails_in_every_revision(revision: str, wrong: dict[str, Any]):
    with pytest.raises(pytest.fail.Exception, match="not a ListToolsResult"):
        schemas.validate(revision, "ListToolsResult", wrong | (MODERN if revision == "2026-07-28" else {}))


@pytest.mark.parametrize("revision", schemas.REVISIONS)
def test_an_error_passes_and_one_without_code_fails_in_every_revision(revision: str):
    error = {"jsonrpc": "2.0", "id": "7", "error": {"code": -32601, "message": "no such method"}}

    schemas.validate_answer(revision, "tools/call", error)
    with pytest.raises(pytest.fail.Exception, match="not a JSONRPCErrorResponse"):
        schemas.validate_answer(revision, "tools/call", {**error, "error": {"message": "no such method"}})


@pytest.mark.parametrize("revision", schemas.REVISIONS)
def test_notifications_are_checked_by_their_own_definition(revision: str):
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 0.5}}

    schemas.validate_notification(revision, progress)
    with pytest.raises(pytest.fail.Exception, match="not a ServerNotification"):
        schemas.validate_notification(revision, {**progress, "params": {"progress": 0.5}})


def test_missing_schemas_skip_a_test_on_a_desk_and_fail_it_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setattr(schemas, "FOLDER", tmp_path / "nowhere")

    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="schemas are not in"):
        schemas.validate("2025-11-25", "ListToolsResult", {})
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI may not do without them"):
        schemas.validate("2025-11-25", "ListToolsResult", {})
