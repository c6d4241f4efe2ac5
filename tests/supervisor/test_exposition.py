"""The text of metrics: what another program than ours reads in it is what was meant."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from supervisor.exposition import Family, Kind, Sample, render, wants_openmetrics

CALLS = Family("x_calls_total", Kind.COUNTER, "Calls.")
OPEN = Family("x_open", Kind.GAUGE, 'With a \\ and\na line, and "quotes".')
TIME = Family("x_time_seconds", Kind.SUMMARY, "How long.")
FAMILIES = (CALLS, OPEN, TIME)


def found(samples: list[Sample], *, openmetrics: bool) -> list[Metric]:
    text = render(FAMILIES, samples, openmetrics=openmetrics).decode()
    families: Iterable[Metric] = (read_openmetrics if openmetrics else read_text)(text)
    return list(families)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_another_program_reads_what_was_meant_in_either_format(openmetrics: bool):
    samples = [
        Sample(OPEN, (), 0.25),
        Sample(CALLS, (("server", "b"), ("era", "modern")), 3),
        Sample(TIME, (("server", "a"),), 2, "_count"),
        Sample(TIME, (("server", "a"),), 0.5, "_sum"),
        Sample(CALLS, (("server", "a"), ("era", "legacy")), 12345678901234567),
    ]
    read = found(samples, openmetrics=openmetrics)
    assert [(one.name, one.type) for one in read] == [
        ("x_calls", "counter"), ("x_open", "gauge"), ("x_time_seconds", "summary"),
    ]  # fmt: skip
    assert [(sample.name, sample.labels, sample.value) for one in read for sample in one.samples] == [
        ("x_calls_total", {"server": "b", "era": "modern"}, 3),
        ("x_calls_total", {"server": "a", "era": "legacy"}, 12345678901234567),
        ("x_open", {}, 0.25),
        ("x_time_seconds_count", {"server": "a"}, 2),
        ("x_time_seconds_sum", {"server": "a"}, 0.5),
    ]
    assert read[1].documentation == OPEN.help


@pytest.mark.case("D-24")
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters='\n"\\{},= ')))
def test_whatever_a_label_holds_it_is_read_back_and_begins_no_line_of_its_own(text: str):
    for openmetrics in (False, True):
        (read,) = found([Sample(OPEN, (("name", text),), 1)], openmetrics=openmetrics)
        assert [sample.labels for sample in read.samples] == [{"name": text}]


def test_what_is_not_measured_is_not_there_and_an_empty_text_is_whole():
    assert render(FAMILIES, []) == b""
    assert render(FAMILIES, [], openmetrics=True) == b"# EOF\n"
    assert list(read_openmetrics("# EOF\n")) == []


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
        (b"application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
    ],
)
def test_openmetrics_is_for_those_who_name_it(accept: bytes, wanted: bool):
    assert wants_openmetrics(accept) is wanted
