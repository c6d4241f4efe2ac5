"""The command that the suite starts as its client when the thing under test is the proxy's side towards servers.

    python -m tests.conformance.client_through_proxy --era legacy|modern|direct LOG URL

Starts the proxy with the suite's own server behind it, runs the client driver against the proxy in that era, and stops
the proxy. With `direct` the driver talks to the suite's server itself: the baseline.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.processes import Proxy

DRIVER = (sys.executable, "-m", "tests.conformance.client_driver", "--strict")


def main() -> int:
    parser = argparse.ArgumentParser(description="A client that reaches its server through the proxy.")
    parser.add_argument("--era", choices=["legacy", "modern", "direct"], required=True)
    parser.add_argument("log", type=Path, help="where the proxy's standard error goes")
    parser.add_argument("url", help="the suite's server")
    arguments = parser.parse_args()
    if arguments.era == "direct":
        return subprocess.call([*DRIVER[:-1], arguments.url])
    proxy = Proxy({"main": arguments.url}, arguments.log, "--namespace", "none")
    try:
        status = subprocess.call([*DRIVER, "--era", arguments.era, proxy.url])
    finally:
        proxy.stop()
    return status


if __name__ == "__main__":
    sys.exit(main())
