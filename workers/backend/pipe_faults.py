"""What to say when a server that is a command fails: the part of `Faults` that is about its process."""

from __future__ import annotations

import msgspec

from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from workers.backend.endpoint import NOWHERE
from workers.backend.faults import Failure, Faults, Says


class PipeFaults(Faults):
    """The failures of one command, worded."""

    def __init__(self, name: str) -> None:
        super().__init__(name, NOWHERE)

    def not_started(self, why: str) -> Failure:
        """`why` continues "the server ..."."""
        return self._unsent(SERVER_UNAVAILABLE, why, down=True, says=Says.SILENT)

    def parked(self, last: str, wait_s: float) -> Failure:
        """It may not be started again yet. `last`: why it ended the last time; continues "the server ..."."""
        text = f"keeps ending and is not started for now; it {last}. Restart it by hand, or wait for the next try"
        return msgspec.structs.replace(
            self._unsent(SERVER_UNAVAILABLE, text, retry_after_ms=int(wait_s * 1000), down=True, says=Says.SILENT),
            parked=True,
        )

    def ended(self, how: str) -> Failure:
        """Its process is gone, and with it what it was doing. `how` continues "the server ..."."""
        text = f"{how}; whether the call was executed is unknown"
        return msgspec.structs.replace(self._sent(OUTCOME_UNKNOWN, text, says=Says.SILENT), down=True, lost=True)

    def over(self, how: str) -> Failure:
        """The same to those who did not want anything of it."""
        return self._unsent(SERVER_UNAVAILABLE, how, down=True, says=Says.SILENT)

    def unsent(self, how: str) -> Failure:
        """The same to what had not been written yet."""
        return self._unsent(SERVER_UNAVAILABLE, f"{how}; the call was not sent", down=True, says=Says.SILENT)

    def no_common_era(self) -> Failure:
        text = (
            "runs, but does not answer as an MCP server of any revision this proxy speaks: check its command, and "
            "whether it wants an argument to speak MCP on standard input and output"
        )
        return self._unsent(SERVER_UNAVAILABLE, text, says=Says.BROKEN)
