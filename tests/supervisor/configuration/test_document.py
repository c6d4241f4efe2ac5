"""Texts become values with lines, in every format, and what is no text of its format is told with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.configuration import document
from supervisor.configuration.document import Format, parse
from supervisor.configuration.problems import ConfigFileError

CANARY = "hunter2canary"

TOML = '''\
http = true            # 1
text = """
[servers.fake]
url = "no"
"""
[servers.main]         # 6
url = "a"
headers = { A = "1" }

[servers."b c"]        # 10
hosts = [
  1,
  2,
]
"q.r".w = 2            # 15
'''
YAML = """\
http: true
servers:
  main:
    url: a
    hosts:
      - x
      - y: z
  other: &o
    url: b
  third: *o
"""
JSON = """\
{
  // a comment with "quotes" and {braces
  "http": true, /* another
  of two lines */ "servers": {
    "main": {
      "url": "a\\"//b",
      "hosts": [1,
        {"x": 2},]
    },
  },
}
"""


@pytest.mark.parametrize(
    ("file", "text", "lines"),
    [
        (
            "a.toml",
            TOML,
            {
                ("http",): 1,
                ("text",): 2,
                ("servers", "main"): 6,
                ("servers", "main", "url"): 7,
                ("servers", "main", "headers", "A"): 8,
                ("servers", "b c"): 10,
                ("servers", "b c", "hosts"): 11,
                ("servers", "b c", "hosts", 1): 11,
                ("servers", "b c", "q.r", "w"): 15,
            },
        ),
        (
            "a.yaml",
            YAML,
            {
                ("http",): 1,
                ("servers",): 2,
                ("servers", "main", "url"): 4,
                ("servers", "main", "hosts", 0): 6,
                ("servers", "main", "hosts", 1, "y"): 7,
                ("servers", "third"): 10,
            },
        ),
        (
            "a.json",
            JSON,
            {
                ("http",): 3,
                ("servers",): 4,
                ("servers", "main", "url"): 6,
                ("servers", "main", "hosts", 0): 7,
                ("servers", "main", "hosts", 1, "x"): 8,
            },
        ),
    ],
)
def test_every_value_has_its_line(file: str, text: str, lines: dict[tuple[str | int, ...], int]):
    found = parse(file, text)

    assert {path: found.line_of(path) for path in lines} == lines
    assert found.line_of(("servers", "main", "no", "such", "thing")) == found.line_of(("servers", "main"))


def test_lines_are_found_in_files_from_windows():
    assert parse("a.toml", TOML.replace("\n", "\r\n")).line_of(("servers", "main", "url")) == 7


def test_comments_and_trailing_commas_of_editors_are_no_part_of_json():
    assert parse("a.json", JSON).values["servers"] == {"main": {"url": 'a"//b', "hosts": [1, {"x": 2}]}}


def test_words_that_older_yaml_took_for_truth_values_are_texts():
    assert parse("a.yaml", "a: yes\nb: off\nc: 2001-01-01\nd: 010\n").values == {
        "a": "yes",
        "b": "off",
        "c": "2001-01-01",
        "d": 10,
    }


@pytest.mark.parametrize(
    ("file", "text", "known"),
    [
        ("x.toml", "", Format.TOML),
        ("x.YAML", "", Format.YAML),
        ("x.yml", "", Format.YAML),
        ("x.json", "", Format.JSON),
        ("x.jsonc", "", Format.JSON),
        ("config", ' {"a": 1}', Format.JSON),
        ("config", "a = 1", Format.TOML),
    ],
)
def test_the_format_is_told_by_the_name_and_else_by_the_text(file: str, text: str, known: Format):
    assert document.format_of(file, text) is known


WRONG = {
    "toml value": ("a.toml", f"http = true\nurl = {CANARY}\n", 2),
    "toml open text": ("a.toml", f'a = 1\n\nurl = "{CANARY}', 3),
    "toml half a line": ("a.toml", "a = 1\nserv", 2),
    "toml key twice": ("a.toml", f'a = 1\na = "{CANARY}"\n', 2),
    "toml table twice": ("a.toml", "[a]\n[b]\n[a]\n", 3),
    "json open text": ("a.json", f'{{\n"a": "{CANARY}', 2),
    "json cut": ("a.json", '{"a": {\n"b": 1,\n', 3),
    "json key twice": ("a.json", f'{{"a": 1,\n"b": {{"c": 1,\n"c": "{CANARY}"}}}}', 3),
    "json nan": ("a.json", '{"a": NaN}', 0),
    "yaml key twice": ("a.yaml", f"a: {CANARY}\nb: 1\na: {CANARY}2\n", 3),
    "yaml open text": ("a.yaml", f"b: 1\na: '{CANARY}\n", 3),
    "yaml at sign": ("a.yaml", f"b: 1\na: @{CANARY}\n", 2),
    "yaml tab": ("a.yaml", "a:\n\tb: 1\n", 2),
    "yaml two documents": ("a.yaml", "a: 1\n---\nb: 1\n", 2),
    "yaml unknown alias": ("a.yaml", f"a: *{CANARY}\n", 1),
    "yaml number for a key": ("a.yaml", "a:\n  1: 2\n", 1),
    "yaml list": ("a.yaml", "- a\n", 0),
    "empty yaml": ("a.yaml", "", 0),
    "empty json": ("a.json", "", 1),
    "deep toml": ("a.toml", "a = " + "[" * 5000, 0),
    "deep json": ("a.json", "[" * 100_000, 0),
    "deep yaml": ("a.yaml", "a: " + "[" * 3000, 0),
    "deeper than anybody needs": ("a.json", '{"a": ' + "[" * 40 + "]" * 40 + "}", 1),
}


@pytest.mark.case("C-19")
@pytest.mark.parametrize(("file", "text", "line"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_text_of_its_format_is_told_with_its_line_and_without_its_values(file: str, text: str, line: int):
    with pytest.raises(ConfigFileError) as caught:
        parse(file, text)

    (problem,) = caught.value.problems
    assert str(caught.value).startswith(file)
    assert CANARY not in str(caught.value)
    if line:
        assert problem.line == line


def test_a_page_of_yaml_cannot_mean_gigabytes():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    with pytest.raises(ConfigFileError, match="more than 100000 values"):
        parse("a.yaml", "\n".join(rows))


@given(st.sampled_from(["a.toml", "a.yaml", "a.json"]), st.text(max_size=60))
def test_any_text_is_read_or_refused(file: str, text: str):
    with contextlib.suppress(ConfigFileError):
        assert all(isinstance(key, str) for key in parse(file, text).values)
