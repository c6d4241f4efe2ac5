"""Says what a run is doing while it lasts, and how long it will take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import TextIO


class Progress:
    """Says on a stream what is going on: on a terminal in one line that changes, else a line for each round."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._steps = 0
        self._steps_done = 0
        self._started = time.monotonic()

    def expect(self, steps: int) -> None:
        self._steps = steps
        self._started = time.monotonic()

    def step(self) -> None:
        self._steps_done += 1

    def measuring(self, case: str, subject: str, what: str) -> None:
        self.show(f"[{self._steps_done}/{self._steps}] {case}: {subject}, {what}{self._time_left()}")

    def round_done(self, case: str, number: int, speeds: Mapping[str, float]) -> None:
        if not self._live:
            figures = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
            self.line(
                f"[{self._steps_done}/{self._steps}] {case}, round {number}, calls/s: {figures}{self._time_left()}"
            )

    def working(self, what: str) -> None:
        """Say what is done in the step that has begun."""
        self.show(f"[{self._steps_done}/{self._steps}] {what}{self._time_left()}")

    def round_line(self, what: str, figures: Mapping[str, float]) -> None:
        """Where there is no changing line, say what has been found so far."""
        if not self._live:
            self.line(f"{what}: {', '.join(f'{name} {number:,.0f}' for name, number in figures.items())}")

    def show(self, text: str) -> None:
        """Replace the changing line."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=self._stream, flush=True)

    def line(self, text: str) -> None:
        """Say something that stays."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def _time_left(self) -> str:
        if not self._steps_done:
            return ""
        left = (time.monotonic() - self._started) / self._steps_done * (self._steps - self._steps_done)
        return f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
