"""Metrics as Prometheus reads them: its text format (0.0.4), and OpenMetrics 1.0 for who asks for that. Pure.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats and the OpenMetrics specification. Of what differs
between the two, only this matters here: how the family of a counter is called, and how the text ends.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
TOTAL: Final = "_total"


class Kind(enum.Enum):
    COUNTER = "counter"
    """It only grows, or begins anew; its name ends with `TOTAL`."""
    GAUGE = "gauge"
    SUMMARY = "summary"
    """How many, and how much together: its samples end with _count and _sum."""


class Family(NamedTuple):
    """What is measured."""

    name: str
    kind: Kind
    help: str


class Sample(NamedTuple):
    family: Family
    labels: tuple[tuple[str, str], ...]
    value: float
    """Finite."""
    suffix: str = ""


def render(families: Iterable[Family], samples: Iterable[Sample], *, openmetrics: bool = False) -> bytes:
    """Return all samples by their families, in the order of these; a family without samples is not there."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.family.name, []).append(sample)
    lines: list[str] = []
    for family in families:
        if own := found.get(family.name):
            lines += _family(family, own, openmetrics=openmetrics)
    if openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines).encode()


def wants_openmetrics(accept: bytes) -> bool:
    """Whether this `Accept` prefers OpenMetrics, as Prometheus says it: who names it at all would rather have it."""
    return b"application/openmetrics-text" in accept.lower()


def _family(family: Family, samples: Sequence[Sample], *, openmetrics: bool) -> Iterable[str]:
    name = family.name.removesuffix(TOTAL) if openmetrics and family.kind is Kind.COUNTER else family.name
    yield f"# HELP {name} {_escaped(family.help)}"
    yield f"# TYPE {name} {family.kind.value}"
    for sample in samples:
        labels = ",".join(f'{label}="{_quotable(text)}"' for label, text in sample.labels)
        yield f"{family.name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quotable(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
