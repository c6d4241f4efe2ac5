"""Settings of hypothesis for the sans-io tests."""

from __future__ import annotations

from hypothesis import settings

# A single example may be slow on a busy machine; the watchdog over every test is bound enough.
settings.register_profile("protocol", deadline=None)
settings.load_profile("protocol")
