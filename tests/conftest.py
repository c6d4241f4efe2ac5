"""Fixtures every test can use: a bound on its time, and real processes that are stopped and checked afterwards."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
import trio

from tests.processes import Proxy, Server

TEST_S_MAX = 60
SLOW_TEST_S_MAX = 300

StartProxy = Callable[..., Awaitable[Proxy]]
StartServer = Callable[..., Awaitable[Server]]


def pytest_configure(config: pytest.Config) -> None:
    """The official SDK's HTTP client leaves generators to the garbage collector, which may find them in any test."""
    config.addinivalue_line("filterwarnings", r"ignore:Async generator '(httpx2|httpcore2|mcp)\.:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder == "process":
            item.add_marker("alone")
        elif folder in ("protocol", "sim"):
            item.add_marker("computing")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End a test that hangs in spite of its own bounds; faulthandler alone would only tell where."""
    slow = item.get_closest_marker("slow")
    limit = TEST_S_MAX if slow is None else max(SLOW_TEST_S_MAX, slow.kwargs.get("limit_s", 0))

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"still running after {limit} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Start proxies: `await proxy({"main": url}, "--page-size", "2")` returns when its port answers.

    After the test each is asked to stop, and the test fails if it does not, ends with an error or leaves a process
    behind. One that the test has stopped or killed itself is left alone.
    """
    started: list[Proxy] = []
    numbers = itertools.count()

    async def start(
        servers: dict[str, str], *arguments: str, port: int = 0, env: dict[str, str] | None = None
    ) -> Proxy:
        stderr = tmp_path / f"proxy-{next(numbers)}.log"
        build = functools.partial(Proxy, servers, stderr, *arguments, port=port, env=env)
        started.append(await trio.to_thread.run_sync(build))
        return started[-1]

    yield start
    with contextlib.ExitStack() as stack:
        for one in started:
            if not one.ended_by_test:
                stack.callback(one.stop)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers of the official SDK: `await server(era="legacy", name="main", tools=3)` returns when it listens.

    With `wait=False` it returns at once. After the test they are killed.
    """
    started: list[Server] = []
    numbers = itertools.count()

    async def start(**options: object) -> Server:
        stderr = tmp_path / f"server-{next(numbers)}.log"
        started.append(await trio.to_thread.run_sync(functools.partial(Server, stderr, **options)))
        return started[-1]

    yield start
    for one in started:
        one.destroy()


@pytest.fixture(scope="session")
def sdk_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of one server of each era ("dual", "legacy", "modern"), shared by all tests that leave them unharmed."""
    folder = tmp_path_factory.mktemp("servers")
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for era in ("dual", "legacy", "modern"):
            one = Server(folder / f"{era}.log", era=era, name=era, wait=False)
            stack.callback(one.destroy)
            servers[era] = one
        for one in servers.values():
            one.wait_for_port(one.port)
        yield {era: one.url for era, one in servers.items()}
