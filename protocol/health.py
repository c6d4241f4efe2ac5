"""What users are told of a server's health, from what its worker says. No I/O.

The five words are those of the management tools: `unknown` (nothing has been learnt yet), `healthy`, `unhealthy` (it
answers, with errors), `error` (it does not answer), `proxy_error` (our own worker could not be started).
"""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "unknown"
HEALTHY: Final = "healthy"
UNHEALTHY: Final = "unhealthy"
ERROR: Final = "error"
PROXY_ERROR: Final = "proxy_error"
HEALTH_STATUSES: Final = (UNKNOWN, HEALTHY, UNHEALTHY, ERROR, PROXY_ERROR)

_BY_STATE: Final = {
    "starting": (UNKNOWN, UNKNOWN),
    "connecting": (UNKNOWN, UNKNOWN),
    "negotiating": (UNKNOWN, UNKNOWN),
    "ready": (HEALTHY, HEALTHY),
    "degraded": (UNHEALTHY, ERROR),
    "auth_required": (UNHEALTHY, UNHEALTHY),
    "open": (UNHEALTHY, ERROR),
    "half_open": (UNHEALTHY, ERROR),
    "backoff": (UNHEALTHY, ERROR),
    "parked": (ERROR, ERROR),
    "disabled": (UNKNOWN, UNKNOWN),
    "draining": (UNKNOWN, UNKNOWN),
    "stopped": (UNKNOWN, UNKNOWN),
}
"""By state: the status if the server's last sign of life was an answer of any kind, and if it was silence."""
STATES: Final = tuple(_BY_STATE)
"""Of a server's worker."""


def health_status(state: str, *, answers: bool) -> str:
    """Return one of `HEALTH_STATUSES`. `state`: as the worker says it; `parked`: its command keeps ending.

    `answers`: the last thing sent to the server was answered, be it with an error. A state that is not in
    architecture.md, section 6, is `unknown`.
    """
    good, bad = _BY_STATE.get(state, (UNKNOWN, UNKNOWN))
    return good if answers else bad
