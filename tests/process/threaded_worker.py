"""Worker code that does what none may: starts a thread when it is imported, and so in the zygote."""

import threading
from typing import NoReturn

threading.Thread(target=threading.Event().wait, daemon=True).start()


def run(control_fd: int) -> NoReturn:
    raise AssertionError("never forked")
