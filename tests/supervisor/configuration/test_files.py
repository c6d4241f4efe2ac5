"""Reading with care, and replacing whole or not at all: whatever fails on the way, and whenever we are killed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.config import Server
from supervisor.configuration import config_file, files
from supervisor.configuration.config_file import ConfigFile
from supervisor.configuration.files import FILE_BYTES_MAX, NotWrittenError
from supervisor.configuration.problems import WholeFileError
from tests.catalogue import CHECKOUT

TEXT = '# mine\nhttp = true\n\n[servers.main]\nurl = "http://localhost:8000/mcp"\n'
NEW = Server("new", "http://localhost:8001/mcp")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- reading ---------------------------------------------------------------------------------------------------------
def _too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)


UNTRUSTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "open to everybody": (lambda path: path.chmod(0o666), "chmod o-w"),
    "100 MB": (_too_large, "larger than 256 KiB"),
    "a byte too large": (lambda path: path.write_bytes(b"#" * (FILE_BYTES_MAX + 1)), "larger than"),
    "no UTF-8": (lambda path: path.write_bytes(b"a = 1\n\nb = \xff\n"), "line 3 has a byte"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "plain file"),
    "link to itself": (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic links"),
}


@pytest.mark.case("C-19")
@pytest.mark.parametrize(("spoil", "words"), UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_a_file_that_cannot_be_trusted_is_refused(spoil: Callable[[Path], object], words: str, file: Path):
    spoil(file)

    with pytest.raises(WholeFileError, match=words):
        files.read(str(file))


def test_links_are_followed_and_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, file: Path):
    file.write_text(TEXT, encoding="utf-8-sig")
    link = tmp_path / "link"
    link.symlink_to(file)

    assert files.read(str(link)).text == TEXT
    assert files.identity(str(link)) == files.identity(str(file))


@pytest.mark.case("C-19")
def test_a_file_that_changes_while_it_is_read_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch):
    status, seen = os.fstat, 0

    def changing(fd: int) -> os.stat_result:
        nonlocal seen
        seen += 1
        if seen == 2:  # between the first look and the second
            file.write_text(TEXT + "# more\n")
        return status(fd)

    monkeypatch.setattr(files.os, "fstat", changing)

    assert files.read(str(file)).text == TEXT + "# more\n"


@pytest.mark.case("C-19")
def test_a_file_that_never_stops_changing_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    status, seen = os.fstat, 0

    def changing(fd: int) -> os.stat_result:
        nonlocal seen
        seen += 1
        file.write_text(TEXT + "#" * seen)
        return status(fd)

    monkeypatch.setattr(files.os, "fstat", changing)
    monkeypatch.setattr(files, "READ_PAUSE_S", 0.0)

    with pytest.raises(WholeFileError, match="changes while it is being read"):
        files.read(str(file))


# --- changing --------------------------------------------------------------------------------------------------------
def test_a_change_keeps_mode_and_owner_and_what_was_there_before(file: Path):
    before = file.stat()

    ConfigFile(str(file)).add_server(NEW)

    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert file.read_text().startswith(TEXT)
    assert NEW.url in file.read_text()
    backup = file.with_name("c.toml.bak")
    assert backup.read_text() == TEXT
    assert stat.S_IMODE(backup.stat().st_mode) == 0o640
    assert left_in(file.parent) == {"c.toml", "c.toml.bak"}


def test_a_change_through_a_link_changes_what_it_leads_to(tmp_path: Path, file: Path):
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "link.toml"
    link.symlink_to("../c.toml")

    ConfigFile(str(link)).set_enabled("main", False)

    assert link.is_symlink()
    assert "enabled = false" in file.read_text()
    assert left_in(link.parent) == {"link.toml"}


def test_going_back_restores_the_bytes_and_going_back_again_undoes_that(file: Path):
    kept = ConfigFile(str(file))
    with pytest.raises(NotWrittenError, match="nothing has been changed"):
        kept.roll_back()
    kept.add_server(NEW)
    changed = file.read_text()

    kept.roll_back()
    assert file.read_text() == TEXT
    kept.roll_back()
    assert file.read_text() == changed


def test_what_changes_nothing_writes_nothing(file: Path):
    before = files.identity(str(file))

    ConfigFile(str(file)).set_enabled("main", True)

    assert files.identity(str(file)) == before
    assert left_in(file.parent) == {"c.toml"}


def test_a_file_with_mistakes_is_not_written_over(file: Path):
    file.write_text(TEXT + "[servers.half")

    with pytest.raises(NotWrittenError, match="left as it is"):
        ConfigFile(str(file)).add_server(NEW)

    assert file.read_text() == TEXT + "[servers.half"


def test_a_change_that_would_make_the_file_unusable_is_refused(file: Path):
    with pytest.raises(NotWrittenError, match="must begin with"):
        ConfigFile(str(file)).add_server(Server("new", "ftp://x/"))

    assert file.read_text() == TEXT


def test_a_change_that_somebody_else_makes_meanwhile_is_not_lost(file: Path, monkeypatch: pytest.MonkeyPatch):
    replace = files.replace

    def editor_was_faster(*arguments: object) -> None:
        file.write_text(TEXT + "# theirs\n")
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(config_file.files, "replace", editor_was_faster)

    with pytest.raises(NotWrittenError, match="changed by somebody else"):
        ConfigFile(str(file)).add_server(NEW)

    assert file.read_text() == TEXT + "# theirs\n"
    assert left_in(file.parent) == {"c.toml"}


def test_two_proxies_that_change_one_file_at_the_same_time_lose_nothing(file: Path):
    names = [f"s{number}" for number in range(20)]
    threads = [
        threading.Thread(target=ConfigFile(str(file)).add_server, args=(Server(name, "http://x/"),)) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    text = file.read_text()
    assert all(f"[servers.{name}]" in text for name in names)


def test_a_lock_that_is_never_given_up_is_told(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "LOCK_TRIES", 3)
    with files.locked(str(file)), pytest.raises(NotWrittenError, match="another program holds"):
        ConfigFile(str(file)).add_server(NEW)


# --- every call fails once -------------------------------------------------------------------------------------------
CALLS = ("open", "fsync", "rename", "fchmod", "fchown", "stat", "fstat", "unlink", "close")
SPACE = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


class _Failing:
    """The module `os`, of which one call fails, once."""

    def __init__(self, call: str, number: int, code: int) -> None:
        self._call, self._number, self._code = call, number, code
        self.failed = False

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name != self._call:
            return real

        def one_fails(*arguments: object, **named: object) -> object:
            self._number -= 1
            if self._number == 0:
                self.failed = True
                if name == "close":
                    real(*arguments, **named)
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **named)

        return one_fails


@pytest.mark.case("C-17", "C-29")
@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_the_file_is_whole_and_old_or_new(call: str, tmp_path: Path):
    failures = 0
    for number in range(1, 20):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = folder / "c.toml"
        file.write_text(TEXT)
        failing = _Failing(call, number, SPACE[number % len(SPACE)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "os", failing)
            descriptors = len(os.listdir("/proc/self/fd"))
            try:
                ConfigFile(str(file)).add_server(NEW)
            except NotWrittenError as error:
                assert str(error)  # noqa: PT017 - and nothing has changed
                assert file.read_text() == TEXT
            except OSError:
                assert call == "close"  # the descriptor is gone all the same, and what it was for is done
            assert len(os.listdir("/proc/self/fd")) == descriptors
        assert file.read_text() == TEXT or NEW.url in file.read_text()
        assert left_in(folder) <= {"c.toml", "c.toml.bak", ".c.toml.new", ".c.toml.old"}
        failures += failing.failed
        ConfigFile(str(file)).set_enabled("main", False)  # whatever is left over does no harm
        assert left_in(folder) == {"c.toml", "c.toml.bak"}
        if not failing.failed:
            break
    if call != "fchown":  # needed only where the owner is another
        assert failures


@pytest.mark.case("C-17")
def test_a_full_disk_changes_nothing_and_is_said(file: Path):
    """A file size limit fails writes as a full disk does: after some bytes have gone well."""
    file.write_text(TEXT + "# long\n" * 1000)
    code = (
        "import resource, signal, sys; sys.path.insert(0, '.');"
        "from supervisor.configuration.config_file import ConfigFile; from supervisor.config import Server;"
        "import tomlkit;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        f"ConfigFile({str(file)!r}).add_server(Server('new', 'http://x/'))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=30)

    assert "could not be written, and is what it was: File too large" in done.stderr
    assert file.read_text() == TEXT + "# long\n" * 1000
    assert left_in(file.parent) == {"c.toml"}


KILLER = """
import os, signal, sys, time
sys.path.insert(0, ".")
from supervisor.configuration.config_file import ConfigFile
path, allowed = sys.argv[1], sys.argv[2:]
kept = ConfigFile(path)
kept.set_enabled("main", False)  # so that everything is loaded
for number in range(150):
    child = os.fork()
    if not child:
        on = False
        while True:
            on = not on
            kept.set_enabled("main", on)
    time.sleep(number * 0.0002)  # not to wait for anything: to be somewhere else each time
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert open(path).read() in allowed, number
print("whole")
"""


@pytest.mark.case("C-17")
def test_killed_at_any_moment_the_file_is_whole(file: Path):
    """A process changes the file again and again, and is killed at 150 moments."""
    allowed = [TEXT, TEXT + "enabled = false\n", TEXT + "enabled = true\n"]

    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(file), *allowed], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )

    assert done.stdout == "whole\n", done.stderr
    ConfigFile(str(file)).add_server(NEW)
    assert left_in(file.parent) == {"c.toml", "c.toml.bak"}
