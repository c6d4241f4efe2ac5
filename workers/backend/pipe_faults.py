"""What to say when a server that is a command fails: the part of `Faults` that is about its process."""

from __future__ import annotations

import msgspec

from protocol.errors import SERVER_UNAVAILABLE
from workers.backend.endpoint import NOWHERE
from workers.backend.faults import Failure, Says
from workers.backend.message_faults import MessageFaults


class PipeFaults(MessageFaults):
    """The failures of one command, worded."""

    def __init__(self, name: str) -> None:
        super().__init__(name, NOWHERE)

    def parked(self, last: str, wait_s: float) -> Failure:
        """It may not be started again yet. `last`: why it ended the last time; continues "the server ..."."""
        text = f"keeps ending and is not started for now; it {last}. Restart it by hand, or wait for the next try"
        return msgspec.structs.replace(
            self._unsent(SERVER_UNAVAILABLE, text, retry_after_ms=int(wait_s * 1000), down=True, says=Says.SILENT),
            parked=True,
        )

    def no_common_era(self) -> Failure:
        text = (
            "runs, but does not answer as an MCP server of any revision this proxy speaks: check its command, and "
            "whether it wants an argument to speak MCP on standard input and output"
        )
        return self._unsent(SERVER_UNAVAILABLE, text, says=Says.BROKEN)
