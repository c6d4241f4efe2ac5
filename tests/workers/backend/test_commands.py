"""A backend worker and a server that is a command: a real child that behaves as badly as the test tells it to."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio

from protocol import link
from protocol.control import Check, Command
from protocol.errors import OUTCOME_UNKNOWN, SERVER_UNAVAILABLE
from protocol.limits import RESTART_INTENSITY, SERVER_LINE_BYTES_MAX
from protocol.versions import Era
from tests.catalogue import CHECKOUT
from tests.waiting import eventually
from tests.workers.backend.harness import Backend, backend
from workers.backend import message_legs, messages
from workers.backend import pipe as pipes
from workers.backend.child import Child

HOSTILE = str(CHECKOUT / "tests" / "peers" / "hostile_command.py")
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def hostile(*habits: str, environment: dict[str, str] | None = None, cwd: str = "", secrets: tuple[str, ...] = ()):
    return Command([sys.executable, HOSTILE, *habits], ENVIRONMENT | (environment or {}), cwd, list(secrets))


def sdk_server() -> Command:
    return Command([sys.executable, "-m", "tests.peers.sdk_server", "--stdio"], ENVIRONMENT, str(CHECKOUT))


@asynccontextmanager
async def worker(command: Command, within_s: float = 10.0) -> AsyncIterator[Backend]:
    with trio.fail_after(within_s):
        async with backend("", command=command, call_timeout_s=30.0) as one:
            yield one
    left = [child for child in psutil.Process().children() if HOSTILE in " ".join(child.cmdline())]
    assert left == []


async def echoed(one: Backend, text: str, era: Era = Era.MODERN) -> str:
    return (await one.front.call("echo", {"text": text}, era=era).done()).text


async def echoed_at_last(one: Backend, text: str) -> str:
    """The same when the server has just been killed: what is written before its end is seen may be lost with it."""
    outcome = await one.front.call("echo", {"text": text}).done()
    while isinstance(outcome.header, link.Fault) and outcome.header.lost:
        outcome = await one.front.call("echo", {"text": text}).done()
    return outcome.text


async def told(one: Backend, text: str) -> None:
    """Wait until something of this kind has been told of the server."""

    async def look() -> bool:
        return any(text in line for line in one.said)

    await eventually(look, f"{text!r} is told")


async def moved_on(read_before: int) -> bool:
    """Whether a good deal more has been read by us since."""
    return psutil.Process().io_counters().read_chars > read_before + 1_000_000


def running() -> list[psutil.Process]:
    """Return the processes of hostile commands that have been started here."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # which one is that has ended meanwhile
            if HOSTILE in " ".join(child.cmdline()):
                found.append(child)
    return found


async def child_of_this(one: Backend) -> psutil.Process:
    """Return the server's process, after it has begun to answer."""
    await echoed(one, "there?")
    [child] = [child for child in psutil.Process().children() if HOSTILE in " ".join(child.cmdline())]
    return child


# --- speaking ---------------------------------------------------------------------------------------------------------
async def test_clients_of_both_eras_are_served_by_a_server_that_speaks_both():
    async with worker(sdk_server(), 30.0) as one:
        for era in (Era.LEGACY, Era.MODERN):
            outcome = await one.front.call("echo", {"text": "grüße"}, era=era).done()
            listed = await one.front.ask_list(era).done()

            # A server decides with the first request which era a pipe has, so there is one for everybody.
            assert (outcome.text, outcome.era) == ("grüße", Era.MODERN)
            assert "echo" in listed.names


@pytest.mark.parametrize("habit", [(), ("old",), ("fragile",)], ids=["refuses", "says nothing", "ends"])
@pytest.mark.case("B-33")
async def test_a_server_that_does_not_know_discovery_is_initialized(
    habit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(message_legs.MessageModernLeg, "_discover_timeout_s", 0.3)

    async with worker(hostile(*habit)) as one:
        outcome = await one.front.call("echo", {"text": "x"}).done()
        assert (outcome.text, outcome.era) == ("x", Era.LEGACY)

        await one.front.call("exit").done()
        starts = len(one.log.fields_of("started"))
        assert await echoed(one, "y", Era.LEGACY) == "y"
        assert len(one.log.fields_of("started")) == starts + 1  # the next life is not asked what killed this one


async def test_a_modern_server_that_was_only_slow_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(message_legs.MessageModernLeg, "_discover_timeout_s", 0.05)  # it takes longer to import

    async with worker(sdk_server(), 30.0) as one:
        outcome = await one.front.call("echo", {"text": "x"}, timeout_s=20.0).done()

        assert (outcome.text, outcome.era) == ("x", Era.MODERN)


async def test_calls_travel_side_by_side_with_progress_log_lines_and_cancellation():
    async with worker(hostile()) as one:
        calls = [one.front.call("echo", {"text": str(number)}) for number in range(50)]
        assert [(await call.done()).text for call in calls] == [str(number) for number in range(50)]

        progressed = await one.front.call("progress", progress=True).done()
        assert [params["progress"] for _, params in progressed.events] == [1, 2, 3]

        logged = await one.front.call("log", {"text": "hear"}, era=Era.LEGACY).done()
        assert logged.events == [("notifications/message", {"level": "info", "data": "hear"})]

        silent = one.front.call("silent")
        await echoed(one, "it has been read")
        one.front.cancel(silent, "not needed")
        assert (await silent.done()).fault.sent
        await told(one, "cancelled b3-")


@pytest.mark.case("D-07")
async def test_a_log_line_while_several_calls_run_is_nobodys():
    async with worker(hostile()) as one:
        other = one.front.call("silent", era=Era.LEGACY)
        logged = await one.front.call("log", {"text": "whose?"}, era=Era.LEGACY).done()

        assert (logged.events, other.events) == ([], [])
        assert one.worker.counters.messages == 1
        one.front.cancel(other, "")
        await other.done()


async def test_what_the_server_asks_of_its_client_is_answered():
    async with worker(hostile()) as one:
        await one.front.ask_list().done()  # nothing else of ours is in the pipe then
        answers = json.loads((await one.front.call("ask").done()).text)
        ping, sampling = sorted(answers, key=lambda answer: answer["id"])

        assert (ping["id"], ping["result"]) == ("s1", {})
        assert (sampling["id"], sampling["error"]["code"]) == ("s2", -32601)


async def test_a_changed_list_is_told():
    async with worker(hostile()) as one:
        await one.front.call("notice").done()
        await one.front.wait_list_change()
        assert one.front.list_changes == ["tools"]


@pytest.mark.case("D-14")
async def test_a_line_break_in_a_clients_message_cannot_become_a_second_message():
    async with worker(hostile()) as one:
        params = b'{"name":"echo",\r\n"arguments":{"text":"one"\n}}'
        outcome = await one.front.call("echo", params=params, meta=b'"a":\n1').done()

        assert outcome.text == "one"
        assert await echoed(one, "two") == "two"


async def test_a_check_over_the_pipe_tells_how_the_server_is():
    async with worker(hostile()) as one:
        one.worker.check(Check(1, 5.0))
        checked = await one.checks.receive()

        assert (checked.problem, checked.answers, "echo" in checked.tools) == ("", True, True)
        assert checked.response_ms > 0


# --- junk -------------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-24", "B-06", "B-07")
async def test_banners_junk_wrong_ids_and_second_answers_harm_nobody():
    async with worker(hostile("banner")) as one:
        assert await echoed(one, "after the banner") == "after the banner"
        assert (await one.front.call("split").done()).text == "in pieces"
        assert (await one.front.call("batch").done()).text == "in a batch"
        assert (await one.front.call("wrong", {"text": "right"}).done()).text == "right"
        assert (await one.front.call("twice").done()).text == "first"
        assert await echoed(one, "still there") == "still there"

        assert len(one.log.fields_of("not a message on standard output")) == 1  # once a minute, not once a line
        assert one.worker.counters.answers == 3
        assert len(one.log.fields_of("started")) == 1


@pytest.mark.case("B-24")
async def test_a_line_without_end_ends_the_server_and_its_calls_but_not_the_next_life():
    async with worker(hostile(), 20.0) as one:
        fits = SERVER_LINE_BYTES_MAX
        assert (await one.front.call("huge", {"size": fits, "text": "junk"}, timeout_s=15).done()).text == "junk"
        fault = (await one.front.call("huge", {"size": fits + 1}, timeout_s=15).done()).fault

        assert (fault.code, fault.sent) == (OUTCOME_UNKNOWN, True)
        assert "longer than 16 MiB" in fault.message
        assert await echoed(one, "again") == "again"


@pytest.mark.case("B-24")
async def test_endless_junk_ends_the_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(messages, "JUNK_LINES_MAX", 100)

    async with worker(hostile("junk")) as one:
        fault = (await one.front.call("echo").done()).fault

        assert not fault.sent
        assert any("lines to its standard output that are no messages" in line for line in one.said)


@pytest.mark.case("B-25")
async def test_a_flood_on_standard_error_is_drained_and_only_some_of_it_told():
    async with worker(hostile(), 20.0) as one:
        child = await child_of_this(one)
        fault = (await one.front.call("flood", timeout_s=0.7).done()).fault

        assert "did not answer within" in fault.message
        written = psutil.Process().io_counters().read_chars
        await eventually(lambda: moved_on(written), "it is drained")
        child.kill()
        assert await echoed_at_last(one, "next") == "next"
        assert len(one.said) < 60
        assert all(len(line) <= 500 for line in one.said)


@pytest.mark.case("B-25")
async def test_many_lines_on_standard_error_do_not_hold_up_calls():
    async with worker(hostile()) as one:
        assert (await one.front.call("complain", {"text": "line ", "lines": 20_000}).done()).text == "line "
        await told(one, "more lines")
        assert len(one.said) < 60


async def test_secrets_that_the_server_prints_are_not_told():
    async with worker(hostile(environment={"TOKEN": "canary-4711"}, secrets=("canary-4711",))) as one:
        environment = json.loads((await one.front.call("environment").done()).text)
        assert environment["TOKEN"] == "canary-4711"
        await one.front.call("complain", {"text": "token canary-4711 "}).done()
        await told(one, "token")
        fault = (await one.front.call("exit").done()).fault

        assert "[redacted]" in fault.message
        assert "canary" not in fault.message + json.dumps([one.said, one.reported, str(one.log.lines)])


# --- dying ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tool", "arguments", "how"),
    [
        ("exit", {"status": 3}, "ended by itself (exit status 3)"),
        ("exit", {"status": 0}, "ended by itself (exit status 0)"),
        ("exit", {"status": 127}, "something it starts was not found"),
        ("die", {"signal": 9}, "was ended by SIGKILL"),
        ("die", {"signal": 11}, "was ended by SIGSEGV"),
    ],
)
@pytest.mark.case("B-27")
async def test_the_end_of_a_server_is_told_once_to_each_call_and_the_next_one_is_started(
    tool: str, arguments: dict[str, int], how: str
):
    async with worker(hostile()) as one:
        others = [one.front.call("silent") for _ in range(3)]
        poison = one.front.call(tool, arguments)
        for call in (*others, poison):
            fault = (await call.done()).fault
            assert (fault.code, fault.sent, fault.lost) == (OUTCOME_UNKNOWN, True, True)
            assert how in fault.message

        assert await echoed(one, "next") == "next"
        assert len(one.log.fields_of("started")) == 2
        assert any(how in line for line in one.said)


@pytest.mark.case("B-31")
async def test_a_limit_of_memory_holds_for_the_command_and_the_usual_one_of_the_worker_does_not():
    megabyte = 1024 * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limited = hostile()
    limited.memory_bytes = 200 * megabyte

    async with worker(limited) as one:
        assert (await one.front.call("hog", {"size": 50 * megabyte}).done()).text == str(50 * megabyte)
        fault = (await one.front.call("hog", {"size": 300 * megabyte}).done()).fault
        assert "ran out of memory (ended by itself (exit status 1)), after saying: MemoryError" in fault.message
        assert await echoed(one, "next") == "next"

    resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, before[1]))  # as a worker has it
    try:
        async with worker(hostile()) as one:
            child = await child_of_this(one)
            assert child.rlimit(psutil.RLIMIT_DATA)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


async def test_a_command_gives_way_to_others_as_far_as_it_is_told_to():
    nice = hostile()
    nice.nice = 3

    async with worker(nice) as one:
        assert (await child_of_this(one)).nice() == psutil.Process().nice() + 3


async def test_a_command_and_what_it_starts_run_on_as_many_processors_as_they_may():
    ours = os.sched_getaffinity(0)
    bound, free = hostile(), hostile()
    bound.processors_max, free.processors_max = 1, len(ours) + 1

    async with worker(bound) as one:
        daemon = psutil.Process(int((await one.front.call("daemon").done()).text))
        try:
            its = (await child_of_this(one)).cpu_affinity()
            assert len(its) == 1
            assert set(its) <= ours
            assert daemon.cpu_affinity() == its
        finally:
            daemon.kill()  # here it is nobody's: the process of the test does not take in what others leave behind
    async with worker(free) as one:
        assert set((await child_of_this(one)).cpu_affinity()) == ours


@pytest.mark.case("B-31")
async def test_a_server_that_ran_out_of_memory_is_said_to_have(tmp_path: Path):
    program = tmp_path / "hog"
    program.write_text("#!/bin/sh\nread line\necho 'FATAL ERROR: JavaScript heap out of memory' >&2\nkill -ABRT $$\n")
    program.chmod(0o755)

    async with worker(Command([str(program)], ENVIRONMENT, "")) as one:
        fault = (await one.front.call("echo").done()).fault

        assert not fault.sent
        await told(one, "ran out of memory (was ended by SIGABRT)")


@pytest.mark.case("B-27", "B-28")
async def test_a_server_that_ends_at_once_is_started_a_few_times_and_then_parked(tmp_path: Path):
    starts = tmp_path / "starts"

    async with worker(hostile("log", str(starts), "gone"), 20.0) as one:
        state = await one.front.wait_state("parked")
        fault = (await one.front.call("echo").done()).fault

        assert len(starts.read_text().splitlines()) == 1 + RESTART_INTENSITY
        assert "ended by itself (exit status 4), after saying: Error: no such database" in state.detail
        assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
        assert fault.retry_after_ms > 200_000


@pytest.mark.case("B-32")
async def test_a_command_that_cannot_be_started_is_explained(tmp_path: Path):
    plain, orphan = tmp_path / "plain", tmp_path / "orphan"
    plain.write_text("text")
    orphan.write_text("#!/no/such/interpreter\n")
    orphan.chmod(0o755)
    empty = tmp_path / "empty"
    empty.write_bytes(b"\x00\x01\x02")
    empty.chmod(0o755)
    busy = tmp_path / "busy"
    shutil.copy("/bin/true", busy)
    wrong = {
        ("npx-4711", ""): "npx-4711 was not found on PATH; check its command",
        ("npx", "PATH="): "npx was not found on PATH; install Node.js",
        ("npx -y x", ""): "its arguments belong in args",
        (str(plain), ""): "may not be executed",
        (str(orphan), ""): "the interpreter that",
        (str(empty), ""): "Exec format error",
        (str(busy), ""): "Text file busy",
        (sys.executable, str(tmp_path / "gone")): "No such file or directory; check its cwd",
    }
    with busy.open("r+b"):  # as while it is being installed anew
        for (program, extra), why in wrong.items():
            environment, cwd = ({"PATH": "/nowhere"}, "") if extra == "PATH=" else (ENVIRONMENT, extra)
            async with worker(Command([program, "canary-4711"], environment, cwd)) as one:
                fault = (await one.front.call("echo").done()).fault

                assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
                assert why in fault.message
                assert "canary" not in fault.message


@pytest.mark.case("B-32")
async def test_a_program_that_comes_to_be_there_is_started_by_the_next_call(tmp_path: Path):
    program = tmp_path / "late"
    async with worker(Command([str(program)], ENVIRONMENT, "")) as one:
        assert "was not found" in (await one.front.call("echo").done()).fault.message
        program.write_text(f"#!/bin/sh\nexec {sys.executable} {HOSTILE}\n")
        program.chmod(0o755)

        assert await echoed(one, "there") == "there"


@pytest.mark.case("C-21")
@pytest.mark.promise("R22")
async def test_a_command_that_cannot_be_started_for_want_of_descriptors_is_started_when_there_are_some():
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with worker(hostile()) as one:
        held = len(os.listdir("/proc/self/fd"))
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, usual[1]))  # enough for one pipe of the three
        try:
            fault = (await one.front.call("echo").done()).fault
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        assert (fault.code, fault.sent) == (SERVER_UNAVAILABLE, False)
        assert "cannot be started" in fault.message
        assert "Too many open files" in fault.message
        assert len(os.listdir("/proc/self/fd")) == held

        assert await echoed(one, "there") == "there"


@pytest.mark.case("C-07")
async def test_a_child_that_is_killed_is_reaped_and_replaced():
    async with worker(hostile()) as one:
        first = await child_of_this(one)
        first.kill()

        assert await echoed_at_last(one, "next") == "next"
        assert not psutil.pid_exists(first.pid)


@pytest.mark.case("B-26")
async def test_a_server_that_reads_nothing_is_replaced_and_calls_it_has_not_got_are_not_lost(
    monkeypatch: pytest.MonkeyPatch,
):
    # It is deaf after its list has been read, so there is a leg, and a life in which nothing is read.
    monkeypatch.setattr(pipes, "STDIN_IDLE_S", 0.5)
    async with worker(hostile("deafened"), 20.0) as one:
        await one.front.ask_list().done()
        calls = [one.front.call("echo", {"text": "x" * 40_000}) for _ in range(20)]
        outcomes = [await call.done() for call in calls]

        ended = [outcome.fault for outcome in outcomes if isinstance(outcome.header, link.Fault)]
        assert any("has read nothing for 0.5 s" in fault.message for fault in ended)
        assert any("has read nothing" in line for line in one.said)
        assert all(fault.sent for fault in ended if fault.code == OUTCOME_UNKNOWN)
        assert len([fault for fault in ended if fault.code == OUTCOME_UNKNOWN]) < len(calls)


@pytest.mark.case("B-26")
async def test_what_a_server_can_certainly_not_have_read_goes_to_the_next_one():
    async with worker(hostile("shuts")) as one:
        await one.front.ask_list().done()
        [child] = [child for child in psutil.Process().children() if HOSTILE in " ".join(child.cmdline())]

        async def has_shut() -> bool:
            return "0" not in os.listdir(f"/proc/{child.pid}/fd")

        await eventually(has_shut, "its input is closed")
        assert await echoed(one, "not lost") == "not lost"
        assert any("closed its input" in line for line in one.said)


async def test_a_server_that_closes_its_output_is_replaced():
    async with worker(hostile("closes")) as one:
        fault = (await one.front.call("echo").done()).fault

        assert not fault.sent
        assert any("closed its output" in line for line in one.said)


# --- stopping ---------------------------------------------------------------------------------------------------------
async def test_a_server_is_asked_to_leave_by_the_end_of_its_input():
    async with worker(hostile()) as one:
        child = await child_of_this(one)
        with trio.fail_after(1.5):  # before it would be asked by a signal
            await one.worker.leave()

        assert not psutil.pid_exists(child.pid)


@pytest.mark.case("B-29")
@pytest.mark.slow
async def test_one_that_ignores_the_end_of_its_input_and_sigterm_is_killed():
    async with worker(hostile("stubborn")) as one:
        child = await child_of_this(one)
        started = trio.current_time()
        await one.worker.leave()

        assert 3.9 < trio.current_time() - started < 5.0  # less than a worker has to stop (WORKER_STOP_S)
        assert not psutil.pid_exists(child.pid)


@pytest.mark.case("B-29")
async def test_one_that_cannot_even_be_killed_is_given_up_with_an_alarm(monkeypatch: pytest.MonkeyPatch):
    """As the kernel does with a process that waits for a disk or a network drive that is gone."""
    for patience in ("STDIN_CLOSED_S", "TERMINATE_S", "KILLED_S"):
        monkeypatch.setattr(pipes, patience, 0.05)
    monkeypatch.setattr(Child, "signal", lambda *_: None)
    async with worker(hostile("stubborn")) as one:
        child = await child_of_this(one)
        await one.worker.leave()

        assert {"pid": child.pid} in one.log.fields_of("its process cannot be ended: the kernel holds it")
        one.log.lines.clear()  # an error that was meant to be there
        child.kill()


async def test_it_runs_in_its_own_session_and_directory_with_its_own_limits(tmp_path: Path):
    async with worker(hostile(cwd=str(tmp_path))) as one:
        child = await child_of_this(one)

        assert (await one.front.call("where").done()).text == str(tmp_path)
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
        assert child.rlimit(psutil.RLIMIT_NOFILE)[0] == 1024
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# --- those who are slow -----------------------------------------------------------------------------------------------
async def test_a_client_that_is_too_slow_hears_only_the_newest_progress_and_nobody_else_loses_anything():
    async with worker(hostile()) as one:
        await one.front.ask_list().done()
        slow = one.front.call("late", progress=True)
        one.front.send(link.PauseEvents(slow.id))
        quick = await one.front.call("progress", progress=True).done()
        assert len(quick.events) == 3
        await one.front.call("release").done()

        outcome = await slow.done()
        assert (outcome.text, [params["progress"] for _, params in outcome.events]) == ("late", [1])


async def test_a_front_that_does_not_keep_up_holds_the_pipe():
    async with worker(hostile()) as one:
        await echoed(one, "ready")
        one.worker._channel.hold(is_held=True)
        held = one.front.call("complain", {"text": "it has been executed"})
        await told(one, "it has been executed")
        assert held.outcome is None

        one.worker._channel.hold(is_held=False)
        assert (await held.done()).text == "it has been executed"
