"""Finds the tools that fit a few words: Okapi BM25 over names, titles, descriptions and arguments.

Source: S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), sections 3.2
(BM25) and 3.3 (weighted fields: BM25F with one length for all fields).
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

QUERY_CHARACTERS_MAX: Final = 1000
QUERY_WORDS_MAX: Final = 32
TEXT_CHARACTERS_MAX: Final = 1000
"""Of one field; what matters in a description stands at its beginning."""
SATURATION: Final = 1.2
"""k1: how soon a word that is there again adds nothing any more."""
LENGTH_PENALTY: Final = 0.75
"""b: how much longer texts count less."""
BEGINS_ALIKE: Final = 0.4
"""What a word counts of which the query has only the beginning, or the other way round ("repo", "repository")."""
BEGINNING_CHARACTERS_LEAST: Final = 3

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
"""Also the parts of camelCase and of names_with_underscores; letters of other alphabets are words of their own."""


def words(text: str) -> Iterator[str]:
    """Return the words of a text as they are compared: lower case, without the "s" of a plural."""
    for found in _WORD.finditer(text[:TEXT_CHARACTERS_MAX]):
        word = found[0].lower()
        if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
            word = f"{word[:-3]}y" if word.endswith("ies") and len(word) > 4 else word[:-1]
        yield word


class Ranking:
    """An index of texts, by the order in which they were added."""

    def __init__(self) -> None:
        self._lengths: list[float] = []
        self._postings: dict[str, dict[int, float]] = {}
        """By word: how often it is in which text, weighted."""
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, fields: Iterable[tuple[str, float]]) -> None:
        """Add a text of (field, weight) pairs."""
        counts: Counter[str] = Counter()
        for field, weight in fields:
            for word in words(field):
                counts[word] += weight  # type: ignore[assignment]  # a Counter also adds fractions
        number = len(self._lengths)
        for word, count in counts.items():
            self._postings.setdefault(word, {})[number] = count
        length = float(sum(counts.values()))
        self._lengths.append(length)
        self._total += length

    def best(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Return the numbers of the best texts with their scores, best first; equal ones in the order they came."""
        wanted = dict.fromkeys(words(query[:QUERY_CHARACTERS_MAX]))
        scores: dict[int, float] = {}
        for word in list(wanted)[:QUERY_WORDS_MAX]:
            for number, score in self._scores_of(word).items():
                scores[number] = scores.get(number, 0.0) + score
        return heapq.nsmallest(limit, scores.items(), key=lambda item: (-item[1], item[0]))

    def _scores_of(self, word: str) -> Mapping[int, float]:
        """Score all texts for one word of the query: by the word itself, else by one that begins alike."""
        scores = self._scores(self._postings.get(word, {}))
        for other in self._alike(word):
            for number, score in self._scores(self._postings[other]).items():
                scores[number] = max(scores.get(number, 0.0), score * BEGINS_ALIKE)
        return scores

    def _alike(self, word: str) -> Sequence[str]:
        if len(word) < BEGINNING_CHARACTERS_LEAST:
            return ()
        beginnings = {word[:end] for end in range(BEGINNING_CHARACTERS_LEAST, len(word))}
        return [other for other in self._postings if other != word and (other.startswith(word) or other in beginnings)]

    def _scores(self, counts: Mapping[int, float]) -> dict[int, float]:
        if not counts:
            return {}
        texts = len(self._lengths)
        rarity = math.log(1 + (texts - len(counts) + 0.5) / (len(counts) + 0.5))
        average = self._total / texts
        scores: dict[int, float] = {}
        for number, count in counts.items():
            penalty = 1 - LENGTH_PENALTY + LENGTH_PENALTY * self._lengths[number] / average
            scores[number] = rarity * count * (SATURATION + 1) / (count + SATURATION * penalty)
        return scores
