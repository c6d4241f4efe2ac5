"""Servers that are commands behind the whole proxy: official ones, hostile ones, and that nothing of them is left."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
from pathlib import Path

import psutil
import pytest
import trio
from mcp import MCPError

from tests.catalogue import CHECKOUT
from tests.conftest import StartProxy
from tests.peers.clients import ERAS, Client, http_client
from tests.processes import TITLE, Proxy, assert_gone, is_running, title
from tests.waiting import eventually, wait_until

HOSTILE = [sys.executable, str(CHECKOUT / "tests" / "peers" / "hostile_command.py")]
CYCLES = int(os.environ.get("COMMAND_CYCLES", "50"))
"""Starts and stops of one command; 1,000 when there is time."""


def hostile(*habits: str) -> str:
    return shlex.join([*HOSTILE, *habits])


def child_of(proxy: Proxy, name: str) -> psutil.Process:
    """Return the process of a server that is a command; waits until there is one."""

    def look() -> psutil.Process | None:
        return next((child for child in proxy.worker(f"server {name}").children() if is_running(child)), None)

    return wait_until(look, f"the command of {name}")


async def ctl(proxy: Proxy, *arguments: str) -> tuple[int, str]:
    state = str(proxy.stderr.with_suffix(".state"))
    done = await trio.run_process(
        [sys.executable, "-m", "supervisor", "ctl", "--state-dir", state, *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=CHECKOUT,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


async def error_of(client: Client, name: str, **arguments: object) -> str:
    """Call a tool that must not succeed, and return why it has not."""
    with pytest.raises(MCPError) as caught:
        await client.call(name, **arguments)
    return str(caught.value)


async def rows(proxy: Proxy) -> dict[str, dict[str, object]]:
    _, listed = await ctl(proxy, "list", "--json")
    # The port answers before the root has opened its admin door.
    return {row["name"]: row for row in json.loads(listed)["servers"]} if listed.startswith("{") else {}


async def wait_for_tools(proxy: Proxy, *names: str) -> None:
    """Wait until these servers are ready; a first start takes its time."""

    async def look() -> bool:
        found = await rows(proxy)
        return all(name in found and found[name]["state"] == "ready" for name in names)

    await eventually(look, f"{', '.join(names)} are ready", 60.0)


# --- official servers -------------------------------------------------------------------------------------------------
async def test_a_server_of_the_official_sdk_works_as_a_command(proxy: StartProxy):
    command = shlex.join([sys.executable, "-m", "tests.peers.sdk_server", "--stdio", "--name", "piped"])
    started = await proxy({"main": command}, "--no-management")
    await wait_for_tools(started, "main")

    with trio.fail_after(60):
        for era in ERAS:
            async with http_client(started.url, era) as client:
                assert "main__echo" in await client.names()
                assert await client.text("main__echo", text="grüße") == "grüße"
                assert await client.text("main__whoami") == "piped"
                result = await client.watch("main__slow", seconds=0.2)
                assert result.content[0].text == "piped slept"
                assert len(client.progressed) == 10
                structured = await client.call("main__structured", city="Köln")
                assert structured.structured_content["winds"] == ["NW", "Föhn"]

    row = (await rows(started))["main"]
    assert (row["transport"], row["url"], row["health_status"], row["era"]) == ("stdio", "", "healthy", "modern")
    assert row["command"] == command
    assert "main is healthy" in (await ctl(started, "health", "main"))[1]


# --- faults -----------------------------------------------------------------------------------------------------------
@pytest.mark.case("B-27")
@pytest.mark.promise("R01", "R04")
async def test_a_command_that_dies_harms_only_its_own_calls_and_comes_back(proxy: StartProxy, tmp_path: Path):
    started = await proxy({"bad": hostile("banner"), "good": hostile()}, "--no-management")

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            await wait_for_tools(started, "bad", "good")
            first = child_of(started, "bad")
            error = await error_of(client, "bad__exit")
            assert "ended by itself (exit status 3)" in error
            assert await client.text("bad__echo", text="again") == "again"
            calls = tmp_path / "calls"
            assert await client.text("bad__flaky", text=str(calls)) == str(calls)
            assert calls.read_text() == "called\ncalled\n"  # it says that it is read-only, so it was sent again
            assert await client.text("good__echo", text="unharmed") == "unharmed"
            assert not is_running(first)

    assert (await rows(started))["bad"]["restarts"] == 0  # its worker has not noticed more than that
    assert "ended by itself (exit status 3)" in (await ctl(started, "logs", "bad"))[1]


@pytest.mark.case("B-32")
async def test_a_program_that_is_not_there_is_explained_where_people_look(proxy: StartProxy):
    started = await proxy({"gone": "npx-4711 -y server", "good": hostile()}, "--no-management")
    await wait_for_tools(started, "good")

    why = "npx-4711 was not found on PATH"
    assert why in (await ctl(started, "health", "gone"))[1]
    assert why in (await ctl(started, "logs", "gone"))[1]
    assert why in str((await rows(started))["gone"]["last_error"])
    with trio.fail_after(60):
        async with http_client(started.url, "legacy") as client:
            assert why in await error_of(client, "gone__echo")
            assert await client.text("good__echo", text="x") == "x"


@pytest.mark.case("B-30", "C-05", "C-07")
@pytest.mark.promise("R15")
async def test_what_a_command_has_started_ends_with_it_however_it_ends(proxy: StartProxy):
    names = ("ends", "removed", "orphaned", "last")
    started = await proxy({name: hostile("stubborn" if name == "last" else "") for name in names})
    await wait_for_tools(started, *names)
    daemons: dict[str, psutil.Process] = {}
    with trio.fail_after(30):
        async with http_client(started.url, "modern") as client:
            for name in names:
                daemons[name] = psutil.Process(int(await client.text(f"{name}__daemon")))
                assert os.getsid(daemons[name].pid) != os.getsid(child_of(started, name).pid)

            ends, removed, orphaned = (child_of(started, name) for name in names[:3])
            await error_of(client, "ends__exit")
            await trio.to_thread.run_sync(assert_gone, [ends, daemons["ends"]])
            assert (await ctl(started, "remove", "removed"))[0] == 0
            await trio.to_thread.run_sync(assert_gone, [removed, daemons["removed"]])
            old = started.kill_worker("server orphaned")
            await trio.to_thread.run_sync(assert_gone, [orphaned, daemons["orphaned"]])
            await trio.to_thread.run_sync(started.replacement, "server orphaned", old)
            assert child_of(started, "orphaned").pid != orphaned.pid
            assert is_running(daemons["last"])

    family = started.family()
    assert len(family) >= 10  # root, zygote, front, three workers with a command each, the daemon; perhaps a spare
    started.kill()
    await trio.to_thread.run_sync(assert_gone, [*family, daemons["last"]])


@pytest.mark.case("B-30")
async def test_a_command_that_multiplies_is_ended_with_all_that_came_of_it_at_its_limit_of_processes(
    proxy: StartProxy, tmp_path: Path
):
    config = tmp_path / "c.toml"
    same = f"command = {json.dumps(HOSTILE[0])}\nargs = {json.dumps(HOSTILE[1:])}\n"
    config.write_text(f"[servers.many]\n{same}process_limit = 20\n[servers.calm]\n{same}")
    started = await proxy({}, "--config", str(config))
    await wait_for_tools(started, "many", "calm")

    def hostile_ones() -> list[psutil.Process]:
        return [one for one in started.family() if is_running(one) and HOSTILE[1] in one.cmdline()]

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            told = await error_of(client, "many__multiply", generations=7)
            assert "had more than 20 processes (process_limit), so all of them were ended" in told
            assert await client.text("calm__echo", text="unharmed") == "unharmed"
            assert await client.text("many__echo", text="anew") == "anew"
            await trio.to_thread.run_sync(wait_until, lambda: len(hostile_ones()) == 2, "the rest of them is gone")


@pytest.mark.case("D-15")
async def test_a_command_gets_its_own_secrets_and_nobody_elses(proxy: StartProxy, tmp_path: Path):
    config = tmp_path / "c.toml"
    config.write_text(
        f"""
        [servers.one]
        command = {json.dumps(HOSTILE[0])}
        args = {json.dumps(HOSTILE[1:])}
        env = {{ TOKEN = "${{env:CANARY_ONE}}" }}
        [servers.two]
        command = {json.dumps(HOSTILE[0])}
        args = {json.dumps(HOSTILE[1:])}
        """
    )
    env = {"CANARY_ONE": "canary-1-4711", "CANARY_TWO": "canary-2-4711"}
    started = await proxy({}, "--no-management", "--debug", "--config", str(config), env=env)
    await wait_for_tools(started, "one", "two")

    with trio.fail_after(60):
        async with http_client(started.url, "modern") as client:
            one = json.loads(await client.text("one__environment"))
            two = json.loads(await client.text("two__environment"))
            await client.text("one__complain", text=one["TOKEN"])
            assert "canary" not in await error_of(client, "one__exit")
    assert one["TOKEN"] == "canary-1-4711"
    assert "TOKEN" not in two
    assert "canary-2-4711" not in json.dumps([one, two])
    told = [await ctl(started, "logs", "one"), await ctl(started, "status", "--json"), started.said()]
    assert "canary" not in json.dumps(told)
    argv = [process.cmdline() for process in started.family()]
    assert "canary" not in json.dumps(argv)


# --- coming and going -------------------------------------------------------------------------------------------------
@pytest.mark.case("D-14")
async def test_a_command_is_added_at_run_time_only_if_that_is_allowed(proxy: StartProxy, tmp_path: Path):
    closed, opened = await proxy({"main": hostile()}), await proxy({"main": hostile()}, "--allow-stdio-add")
    odd = "$(touch /tmp/x); `id` | cat && *"
    arguments: dict[str, object] = {
        "operation": "add",
        "name": "more",
        "command": HOSTILE[0],
        "args": [*HOSTILE[1:], odd],
    }

    async def manage(to: Proxy, **request: object) -> dict[str, object]:
        async with http_client(to.url, "modern") as client:
            return (await client.call("manage", **request)).structured_content

    with trio.fail_after(30):
        refused = await manage(closed, **arguments)
        assert refused["success"] is False
        assert "--allow-stdio-add" in str(refused["error"])
        assert (await ctl(closed, "add", "more", "--command", hostile()))[0] == 1

        loader = await manage(opened, **arguments, env={"LD_PRELOAD": "/x"})
        reference = await manage(opened, **arguments, env={"A": "${env:HOME}"})
        assert (loader["success"], reference["success"]) == (False, False)
        added = await manage(opened, **arguments, cwd=str(tmp_path), env={"A": "b"})
        assert (added["success"], added["tool_count"]) == (True, 26)
        assert (await rows(opened))["more"]["command"] == shlex.join([*HOSTILE, odd])
        assert child_of(opened, "more").cmdline() == [*HOSTILE, odd]
        async with http_client(opened.url, "modern") as client:
            assert await client.text("more__where") == str(tmp_path)
            assert json.loads(await client.text("more__environment"))["A"] == "b"

        status, said = await ctl(opened, "add", "third", "--command", hostile("banner"), "--env", "X=@" + str(tmp_path))
        assert (status, "cannot be read" in said) == (2, True)
        assert (await ctl(opened, "add", "third", "--command", hostile("gone")))[0] == 1
        assert (await ctl(opened, "add", "third", "--command", hostile("banner")))[0] == 0
        assert set(await rows(opened)) == {"main", "more", "third"}


@pytest.mark.slow(limit_s=3 * CYCLES)
@pytest.mark.case("C-08")
@pytest.mark.promise("R14")
async def test_a_command_that_is_replaced_again_and_again_leaves_nothing(proxy: StartProxy, tmp_path: Path):
    config = tmp_path / "c.json"

    def write(number: int) -> None:
        main = {"command": HOSTILE[0], "args": [*HOSTILE[1:], str(number)]}
        temporary = config.with_suffix(".new")
        temporary.write_text(json.dumps({"servers": {"main": main}}))
        temporary.rename(config)

    write(0)
    started = await proxy({}, "--config", str(config), "--no-management")
    await wait_for_tools(started, "main")
    root = psutil.Process(started.pid)
    seen: list[psutil.Process] = [child_of(started, "main")]
    held: list[int] = []

    def has_settled() -> bool:
        """Zygote, front, worker and command are all there is, no zombie either, and the root holds no more than it did.

        There may be a spare: it is made half a second after the last order.
        """
        there = [title(process).strip() for process in root.children(recursive=True)]
        return len(there) - there.count(TITLE + "spare") == 4 and root.num_fds() <= min(held, default=math.inf)

    for number in range(1, CYCLES + 1):
        write(number)
        root.send_signal(signal.SIGHUP)

        def look(number: int = number) -> psutil.Process | None:
            for process in started.family():
                try:
                    if process.cmdline()[-1:] == [str(number)] and process.pid not in {one.pid for one in seen}:
                        return process
                except psutil.NoSuchProcess:
                    continue
            return None

        seen.append(await trio.to_thread.run_sync(wait_until, look, f"command {number}"))
        if number in (5, CYCLES):
            await trio.to_thread.run_sync(assert_gone, seen[:-1], 10.0)
            await trio.to_thread.run_sync(wait_until, has_settled, "what was replaced is gone")
            held.append(root.num_fds())
