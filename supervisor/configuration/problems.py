"""What is wrong with a configuration file: each problem with its line, its key and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.log_lines import clean
from supervisor.config import ConfigError

PROBLEMS_MAX: Final = 20
"""Told at once; who has more will come back anyway."""
TEXT_CHARS_MAX: Final = 500
KEY_CHARS_MAX: Final = 120

Path = tuple[str | int, ...]
"""Where a value is: keys and, within lists, positions from 0."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    line: int
    """From 1; 0 if it is about the whole file."""
    key: str
    """Such as "servers.main.url"; "" if it is about none."""
    text: str
    """What is wrong and what to do; no secret is in it."""

    def shown(self, file: str) -> str:
        """Return it as compilers do, `FILE:LINE: [KEY] TEXT`, so that editors can jump there.

        A colon after the key would make the rest look like the value of, say, an Authorization header to whoever hides
        secrets in logs.
        """
        place = f"{file}:{self.line}" if self.line else file
        return f"{place}: [{self.key}] {self.text}" if self.key else f"{place}: {self.text}"


class ConfigFileError(ConfigError):
    """The file cannot be used. `lines`: one for each problem, in the order of the file."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        told = sorted(problems)[:PROBLEMS_MAX]
        self.problems = told
        lines = [problem.shown(clean(file)) for problem in told]
        if len(problems) > len(told):
            lines.append(f"{clean(file)}: ... and {len(problems) - len(told)} more")
        self.lines = tuple(lines)
        super().__init__("\n".join(lines))


class WholeFileError(ConfigFileError):
    """A problem that has no line: the file cannot be read or must not be trusted."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__(file, [Problem(0, "", text)])


def key_of(path: Path) -> str:
    """Return a path as people write it: "servers.main.headers", "host[1]". Odd parts are quoted, long ones cut."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        plain = part.isascii() and part.replace("_", "").replace("-", "").isalnum()
        text += ("." if text else "") + (part if plain else ascii(part))
    return text if len(text) <= KEY_CHARS_MAX else text[: KEY_CHARS_MAX - 3] + "..."


def problem(line: int, path: Path, text: str) -> Problem:
    cut = text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 3] + "..."
    return Problem(line, key_of(path), clean(cut))


def similar(word: str, words: Sequence[str]) -> str:
    """Return a hint such as "; did you mean 'url'?", or "" if nothing is like it."""
    from difflib import get_close_matches  # only somebody who has made a mistake pays for it

    close = get_close_matches(word[:KEY_CHARS_MAX].lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
