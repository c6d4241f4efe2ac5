"""What to say when a channel ends on which many messages are under way: a pipe, a WebSocket, an event stream."""

from __future__ import annotations

import msgspec

from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from workers.backend.faults import Failure, Faults, Says


class MessageFaults(Faults):
    """The failures of a server that is reached over one, worded. `how` and `why` continue "the server ..."."""

    def not_started(self, why: str) -> Failure:
        """There is no such channel."""
        return self._unsent(SERVER_UNAVAILABLE, why, down=True, says=Says.SILENT)

    def ended(self, how: str) -> Failure:
        """It is gone, and with it what the server was doing for us."""
        text = f"{how}; whether the call was executed is unknown"
        return msgspec.structs.replace(self._sent(OUTCOME_UNKNOWN, text, says=Says.SILENT), down=True, lost=True)

    def over(self, how: str) -> Failure:
        """The same to those who did not want anything of it."""
        return self._unsent(SERVER_UNAVAILABLE, how, down=True, says=Says.SILENT)

    def unsent(self, how: str) -> Failure:
        """The same to what had not been written yet."""
        return self._unsent(SERVER_UNAVAILABLE, f"{how}; the call was not sent", down=True, says=Says.SILENT)
