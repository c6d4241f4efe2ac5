"""Whether a message is what the official schema of its revision says it should be.

The schemas are those of the specification's repository, in `../shared/spec/<revision>/schema.json` beside the checkout.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import jsonschema
import pytest

from tests.catalogue import CHECKOUT

FOLDER = CHECKOUT.parent / "shared" / "spec"

REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")

_BEFORE_2025_11_25 = {"JSONRPCResultResponse": "JSONRPCResponse", "JSONRPCErrorResponse": "JSONRPCError"}
"""What definitions were called before the revision that gave them the names used here."""

_RESULT_OF = {
    "initialize": "InitializeResult",
    "server/discover": "DiscoverResult",
    "ping": "EmptyResult",
    "logging/setLevel": "EmptyResult",
    "resources/subscribe": "EmptyResult",
    "resources/unsubscribe": "EmptyResult",
    "subscriptions/listen": "SubscriptionsListenResult",
    "tools/list": "ListToolsResult",
    "tools/call": "CallToolResult",
    "prompts/list": "ListPromptsResult",
    "prompts/get": "GetPromptResult",
    "resources/list": "ListResourcesResult",
    "resources/templates/list": "ListResourceTemplatesResult",
    "resources/read": "ReadResourceResult",
    "completion/complete": "CompleteResult",
    "tasks/list": "ListTasksResult",
}


def available() -> bool:
    """Whether the schemas are there. Errors: fails the test if they are not although this is CI."""
    if FOLDER.is_dir():
        return True
    if os.environ.get("CI") == "true":
        pytest.fail(f"the specification's schemas are not in {FOLDER}, and CI may not do without them")
    return False


@functools.cache
def _definitions(revision: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / revision / "schema.json").read_text(encoding="utf-8"))
    return document


@functools.cache
def _validator(revision: str, kind: str) -> Any:
    document = _definitions(revision)
    place = "$defs" if "$defs" in document else "definitions"
    name = kind if kind in document[place] else _BEFORE_2025_11_25.get(kind, kind)
    assert name in document[place], f"{revision} does not define {kind}"
    schema = {**document, "$ref": f"#/{place}/{name}"}
    return jsonschema.validators.validator_for(document)(schema)


def validate(revision: str, kind: str, message: Any) -> None:
    """Fail unless `message` is a `kind` ("ListToolsResult", "JSONRPCErrorResponse" …) of the revision.

    Kinds have the names of the newest revision that defines them. Without the schemas the test is skipped.
    """
    if not available():
        pytest.skip(f"the specification's schemas are not in {FOLDER}")
    if found := fault(revision, kind, message):
        pytest.fail(found)


def fault(revision: str, kind: str, message: Any) -> str:
    """Return what is wrong with a message that should be a `kind`; "" if nothing, or without the schemas."""
    if not available():
        return ""
    error = jsonschema.exceptions.best_match(_validator(revision, kind).iter_errors(message))
    if error is None:
        return ""
    place = "/".join(map(str, error.absolute_path)) or "the message"
    return f"not a {kind} of {revision}: {place}: {error.message}\n{json.dumps(message)[:2000]}"


def answer_fault(revision: str, method: str, answer: Any) -> str:
    """Return what is wrong with a response to a request of that method, its result or its error included."""
    if "error" in answer:
        return fault(revision, "JSONRPCErrorResponse", answer)
    kind = _RESULT_OF.get(method, "Result")
    if answer["result"].get("resultType") == "input_required":
        kind = "InputRequiredResult"
    return fault(revision, "JSONRPCResultResponse", answer) or fault(revision, kind, answer["result"])


def validate_answer(revision: str, method: str, answer: Any) -> None:
    """Fail unless `answer` is a response to a request of that method, its result or its error included."""
    if not available():
        pytest.skip(f"the specification's schemas are not in {FOLDER}")
    assert method in _RESULT_OF or "error" in answer, f"which result has {method}?"
    if found := answer_fault(revision, method, answer):
        pytest.fail(found)


def validate_notification(revision: str, message: Any) -> None:
    """Fail unless `message` is a notification that a server may send."""
    validate(revision, "JSONRPCNotification", message)
    validate(revision, "ServerNotification", message)
