"""The command line of the measurements: `python -m benchmarks load`, and `mcp-bulkhead bench load`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import load, options, report, targets
from benchmarks.options import Options
from benchmarks.progress import Progress
from benchmarks.results import RunResult
from benchmarks.subjects import StartError


class Interrupted(BaseException):
    """Somebody wants the run to end. Not an Exception, so that nothing on the way takes it for a fault of a subject."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one measurement. Returns the exit code: 0 done, 1 something promised was missed or could not be started."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    load_help = "calls/s, latency and CPU per call, beside nginx, the SDK and the server itself"
    options.add_arguments(commands.add_parser("load", help=load_help, description=load.__doc__))
    return _load(options.read(parser.parse_args(argv)))


def _load(chosen: Options) -> int:
    result = RunResult()
    exit_code = 0
    try:
        with _interruptible():
            load.run(chosen, result, Progress(sys.stderr))
    except Interrupted as interrupted:
        exit_code = interrupted.exit_code
        print("interrupted; what was measured until then:", file=sys.stderr)
    except StartError as error:
        exit_code = 1
        print(error, file=sys.stderr)
    verdicts = targets.check(result)
    # Where the figures have standard output to themselves, people find the tables on the other one.
    print(report.tables(result, verdicts), file=sys.stderr if chosen.json == "-" else sys.stdout)
    if chosen.json:
        text = report.as_json(result, chosen, verdicts)
        if chosen.json == "-":
            print(text)
        else:
            Path(chosen.json).write_text(text + "\n", encoding="utf-8")
    if not exit_code and (result.broken or (chosen.check and not targets.all_kept(verdicts))):
        exit_code = 1
    return exit_code


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """Turn the signals that mean "stop" into Interrupted, so that everything started is stopped on the way out."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
