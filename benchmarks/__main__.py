"""The command line of the measurements: `python -m benchmarks load`, or `mcp-bulkhead bench load`, and the others."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

from benchmarks import balance, failover, leak, load, options, overload, recovery, report, soak, targets
from benchmarks.balance import Balance
from benchmarks.leak import Leak
from benchmarks.options import Options
from benchmarks.overload import Overload
from benchmarks.progress import Progress
from benchmarks.recovery import Recovery
from benchmarks.results import RunResult
from benchmarks.soak import Soak
from benchmarks.subjects import StartError
from benchmarks.targets import Verdict


class Interrupted(BaseException):
    """Somebody wants the run to end. Not an Exception, so that nothing on the way takes it for a fault of a subject."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


class Measurement(Protocol):
    """One run of something other than `load`. What it has found until it is interrupted stays available."""

    def run(self, progress: Progress) -> None:
        """Raises StartError."""
        ...

    def tables(self) -> str: ...

    def verdicts(self) -> list[Verdict]: ...

    def document(self) -> dict[str, Any]:
        """Return all figures, as far as they differ from one measurement to the other."""
        ...


MEASUREMENTS: Final[Mapping[str, Callable[[argparse.Namespace], Measurement]]] = {
    "failover": failover.measurement,
    "balance": Balance,
    "overload": Overload,
    "recovery": Recovery,
    "soak": Soak,
    "leak": Leak,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one measurement. Returns the exit code: 0 done, 1 something promised was missed or could not be started."""
    parsed = _parser().parse_args(argv)
    if parsed.command == "load":
        return _load(options.read(parsed))
    return _measure(MEASUREMENTS[parsed.command](parsed), parsed.json, parsed.check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    load_help = "calls/s, latency and CPU per call, beside nginx, the SDK and the server itself"
    options.add_arguments(commands.add_parser("load", help=load_help, description=load.__doc__))
    for name, module, said in (
        ("failover", failover, "how soon a killed process is replaced, and which calls it costs"),
        ("balance", balance, "the policies for groups of replicas, with one slow replica"),
        ("overload", overload, "ten times the load that a server takes: goodput, refusals, memory"),
        ("recovery", recovery, "starting, many servers at once, memory and CPU at rest, stopping"),
        ("soak", soak, "faults at random under load for a long time: does anything leak"),
        ("leak", leak, "10,000 clients come and go, hundreds of processes are killed: is anything left of them"),
    ):
        command = commands.add_parser(name, help=said, description=module.__doc__)
        module.add_arguments(command)
        options.add_stand_arguments(command)
        options.add_output_arguments(command)
    return parser


def _load(chosen: Options) -> int:
    result = RunResult()
    exit_code = _until_interrupted(lambda: load.run(chosen, result, Progress(sys.stderr)))
    verdicts = targets.check(result)
    _show(report.tables(result, verdicts), chosen.json, lambda: report.as_json(result, chosen, verdicts))
    if not exit_code and (result.broken or (chosen.check and not targets.all_kept(verdicts))):
        exit_code = 1
    return exit_code


def _measure(measurement: Measurement, json_to: str, check: bool) -> int:
    exit_code = _until_interrupted(lambda: measurement.run(Progress(sys.stderr)))
    verdicts = measurement.verdicts()
    promised = ["Promised numbers:", *(f"  {verdict.sentence}" for verdict in verdicts)] if verdicts else []
    text = "\n\n".join([measurement.tables(), *(["\n".join(promised)] if promised else [])])

    def document() -> str:
        listed = [report.verdict_json(verdict) for verdict in verdicts]
        return json.dumps({"machine": report.machine(), **measurement.document(), "targets": listed}, indent=2)

    _show(text, json_to, document)
    return exit_code or int(check and not targets.all_kept(verdicts))


def _until_interrupted(run: Callable[[], None]) -> int:
    """Return 0, or the exit code for what ended the run early, which has been said then."""
    try:
        with _interruptible():
            run()
    except Interrupted as interrupted:
        print("interrupted; what was measured until then:", file=sys.stderr)
        return interrupted.exit_code
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _show(tables: str, json_to: str, document: Callable[[], str]) -> None:
    # Where the figures have standard output to themselves, people find the tables on the other one.
    print(tables, file=sys.stderr if json_to == "-" else sys.stdout)
    if json_to == "-":
        print(document())
    elif json_to:
        Path(json_to).write_text(document() + "\n", encoding="utf-8")


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
