"""The backend as a command: a message of MCP on each line of its input, for stateless clients alone.

`python -m benchmarks.command_backend`. All that one read has brought is answered with one write.
"""

from __future__ import annotations

import os
from typing import Final

from benchmarks.backend_answers import Answers, answer_alone

READ_BYTES: Final = 64 * 1024


def main() -> None:
    answers = Answers()
    rest = b""
    while data := os.read(0, READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        unsent = memoryview(b"".join(answer + b"\n" for line in lines if (answer := answer_alone(answers, line))))
        while unsent:
            unsent = unsent[os.write(1, unsent) :]


if __name__ == "__main__":
    main()
