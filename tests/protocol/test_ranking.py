"""Finding tools by words: what is found, in which order, and at what cost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ranking import Ranking, words

TOOLS = {
    "create_issue": "Create a new issue in a GitHub repository",
    "list_issues": "List issues in a repository, with filters for state and labels",
    "get_file_contents": "Read the contents of a file or directory from a repository",
    "sendMessage": "Post a message to a Slack channel",
    "query_database": "Run a read-only SQL query against PostgreSQL and return the rows",
    "get_weather": "Current weather and forecast for a city",
    "browser_click": "Click on an element of a web page",
    "searchFlights": "Search flights between two airports, on a date",
}


def ranking() -> Ranking:
    index = Ranking()
    for name, description in TOOLS.items():
        index.add([(name, 3.0), (description, 1.0)])
    return index


def best(query: str, limit: int = 3) -> list[str]:
    return [list(TOOLS)[number] for number, _ in ranking().best(query, limit)]


@pytest.mark.parametrize(
    ("query", "tool"),
    [
        ("create issue", "create_issue"),
        ("open a new issue", "create_issue"),
        ("list all issues", "list_issues"),
        ("read a file", "get_file_contents"),
        ("files", "get_file_contents"),
        ("send slack messages", "sendMessage"),
        ("sql", "query_database"),
        ("postgres query", "query_database"),
        ("weather in Berlin", "get_weather"),
        ("find a flight", "searchFlights"),
        ("click button on the page", "browser_click"),
    ],
)
def test_the_tool_that_is_meant_comes_first(query: str, tool: str):
    assert best(query)[0] == tool


def test_words_are_found_in_every_way_of_writing_names():
    assert list(words("getHTTPResponse_codes2 list-Files, Ünï 日本 glass boss categories")) == [
        *("get", "http", "response", "code", "2", "list", "file"),
        *("ü", "n", "ï", "日本", "glass", "boss", "category"),
    ]


def test_nothing_is_found_where_nothing_fits():
    assert best("zebra") == []
    assert best("") == []
    assert best("!?. ") == []
    assert Ranking().best("anything", 3) == []


def test_equally_good_tools_come_in_the_order_of_the_list():
    index = Ranking()
    for _ in range(5):
        index.add([("same words", 1.0)])

    assert [number for number, _ in index.best("words", 3)] == [0, 1, 2]


def test_a_rare_word_counts_more_than_one_that_all_have():
    index = Ranking()
    for text in ("get get get the thing", "the rare thing", "get the thing"):
        index.add([(text, 1.0)])

    assert index.best("get rare", 1)[0][0] == 1


@pytest.mark.case("D-31")
@given(st.text(max_size=3000), st.lists(st.text(max_size=200), max_size=5))
def test_no_query_and_no_text_is_too_odd(query: str, texts: list[str]):
    index = Ranking()
    for text in texts:
        index.add([(text, 1.0)])
    found = index.best(query, 3)

    assert len(found) <= 3
    assert all(score > 0 and 0 <= number < len(texts) for number, score in found)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


@pytest.mark.case("D-31")
def test_a_query_made_to_be_costly_is_cut_short():
    index = Ranking()
    for number in range(2000):
        index.add([(f"tool{number} " + " ".join(f"w{letter}{number % 97}" for letter in "abcdefgh"), 1.0)])
    started = time.process_time()
    index.best(" ".join(f"too{letter}" for letter in "abcdefghij" * 1000) * 10, 10)

    assert time.process_time() - started < 0.5
