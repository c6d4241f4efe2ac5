"""What to say when an event stream of HTTP+SSE cannot be had."""

from __future__ import annotations

import msgspec

from protocol.errors import SERVER_UNAVAILABLE
from workers.backend.answers import Answer
from workers.backend.faults import Failure, Says
from workers.backend.message_faults import MessageFaults


class SseFaults(MessageFaults):
    """The failures of one server that is reached over HTTP+SSE, worded."""

    def no_event_stream(self, answer: Answer) -> Failure:
        """It has answered the GET with something else."""
        failure = self.of_status(answer)
        if failure.final or failure.says is Says.THROTTLES or answer.status >= 500:
            return msgspec.structs.replace(failure, sent=False, down=True)
        text = f"has no event stream at {self._endpoint.path} (HTTP {answer.status}): check the path of its URL"
        return self._unsent(SERVER_UNAVAILABLE, text, down=True, says=Says.BROKEN)

    def no_endpoint(self, timeout_s: float) -> Failure:
        text = f"opened an event stream, but did not say within {timeout_s:g} s where messages are to be posted"
        return self._unsent(SERVER_UNAVAILABLE, text, down=True, says=Says.BROKEN)

    def foreign_endpoint(self) -> Failure:
        text = "wants messages to be posted to another host than that of its URL, which is not done"
        return self._unsent(SERVER_UNAVAILABLE, text, down=True, says=Says.BROKEN)
