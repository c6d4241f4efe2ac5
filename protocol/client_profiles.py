"""Says which names of tools a client can take, and makes a name fit.

Clients hand names on to the APIs of models, which refuse the whole list for one name that is too long or has a
character they do not know. So every name is fitted before a client sees it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, replace
from typing import Final

NAME_CHARACTERS_MAX: Final = 64
"""What the strictest of the common model APIs take."""
NAME_CHARACTERS_LEAST: Final = 44
"""The shortest limit: it leaves a server's whole name, the separator and the digest in place."""
DIGEST_CHARACTERS: Final = 8
"""40 bits: among 10,000 shortened names the odds that two share one are 1 in 20,000."""
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]")
_FITTED: Final = re.compile(rf"_[a-z2-7]{{{DIGEST_CHARACTERS}}}\Z")


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of client takes: names of letters, digits, "_" and "-"."""

    characters_max: int = NAME_CHARACTERS_MAX
    """0: any name is taken, whatever its length and characters."""
    letter_first: bool = False
    """A name begins with a letter or "_"."""
    extra: str = ""
    """Legal characters besides."""

    def fit(self, name: str) -> str:
        """Return the name itself if this client can take it, else a legal one that no other name is given.

        The result depends on nothing but the name, so it is the same after a restart and whatever other tools there
        are: illegal characters become "_", and the end makes room for characters of the name's SHA-256.
        """
        if not self.characters_max or self._takes(name):
            return name
        return self.marked(name)

    def marked(self, name: str) -> str:
        """Return the name with its digest, as if it had not fitted."""
        plain = _ILLEGAL.sub(lambda found: found[0] if found[0] in self.extra else "_", name)
        if self.letter_first and not _begins_with_letter(plain):
            plain = f"_{plain}"
        kept = plain[: (self.characters_max or NAME_CHARACTERS_MAX) - DIGEST_CHARACTERS - 1]
        return f"{kept}_{_digest(name)}"

    def _takes(self, name: str) -> bool:
        if not 0 < len(name) <= self.characters_max or (self.letter_first and not _begins_with_letter(name)):
            return False
        return all(character in self.extra for character in _ILLEGAL.findall(name))


PICKY: Final = {
    # Puts "mcp__<our name>__" before each name, and hands that to an API that takes 64 characters of it.
    "claude-code": Profile(NAME_CHARACTERS_LEAST),
    # Counts our name and the tool's together, and leaves out tools for which that passes 60.
    "cursor": Profile(NAME_CHARACTERS_LEAST),
    # Puts "mcp_<our name>_" before each name, and its API wants a letter first.
    "gemini": Profile(NAME_CHARACTERS_LEAST, letter_first=True),
}
"""Clients known to take less than others, by a part of their `clientInfo.name` in lower case."""
STRICTEST: Final = Profile(NAME_CHARACTERS_LEAST, letter_first=True)
"""Whatever this takes is the same for all clients."""


class Profiles:
    """The profiles of one run."""

    def __init__(self, characters_max: int, separator: str) -> None:
        """`characters_max`: of a name, for clients in general; 0 to leave names as the servers give them.

        Who chooses a separator chooses its characters, too; clients known to be picky get legal ones all the same.
        """
        self.general = Profile(characters_max, extra="".join(sorted(set(separator) - set("_-"))))
        self._picky = {
            part: replace(profile, characters_max=min(profile.characters_max, characters_max))
            for part, profile in PICKY.items()
            if characters_max
        }

    def of(self, client_name: str) -> Profile:
        """Return the profile of a client by its `clientInfo.name` ("" if it gave none)."""
        lower = client_name.lower()
        return next((profile for part, profile in self._picky.items() if part in lower), self.general)


def may_be_fitted(name: str) -> bool:
    """Whether a name looks like a fitted one. Whether it is, only the lists of tools tell."""
    return _FITTED.search(name) is not None


def _begins_with_letter(name: str) -> bool:
    return name[:1] not in "-0123456789"


def _digest(name: str) -> str:
    packed = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return base64.b32encode(packed)[:DIGEST_CHARACTERS].decode().lower()
