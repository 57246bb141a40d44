"""Two runs never share a folder; what a killed one leaves behind hinders nobody."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.commands import TINY, contents, done, lrat, one_thread
from lrat.errors import RunFolderError
from lrat.runs.lock import LOCK, alone, locked

HOLDER = """
import sys, time
from pathlib import Path
from lrat.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds ``folder``."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    held = subprocess.Popen(command, env=one_thread(), stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    assert held.stdout.readline() == "locked\n"
    return held


def end(held: subprocess.Popen[str]) -> None:
    held.kill()
    held.communicate()
    assert held.returncode == -signal.SIGKILL


def test_a_second_process_is_refused_in_one_line_and_writes_nothing(run: Path) -> None:
    held = holder(run)
    try:
        before = contents(run)
        complaint = lrat("train", "sat", *TINY, "--epochs", "2", "--out", run).complaint
        assert contents(run) == before
    finally:
        end(held)
    assert complaint == (
        f"{run} is in use by process {held.pid}: wait until that run has ended, or choose "
        "another --out"
    )


def test_the_lock_of_a_killed_process_hinders_nobody(tmp_path: Path) -> None:
    out = tmp_path / "run"
    end(holder(out))
    assert [path.name for path in out.iterdir()] == [LOCK]
    done("train", "sat", *TINY, "--set", "data.train_limit=80", "--epochs", "1", "--out", out)
    assert (out / "model.safetensors").is_file()
    assert not (out / LOCK).exists()


def test_a_folder_made_for_the_lock_alone_is_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"

    def fail() -> None:
        with locked(folder):
            assert (folder / LOCK).read_text() == str(os.getpid())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "one"):
        (tmp_path / "one" / "kept").touch()
    assert contents(tmp_path).keys() == {"one/kept"}
    with locked(tmp_path / "one"):
        pass
    assert contents(tmp_path).keys() == {"one/kept"}


def test_a_lock_that_its_holder_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def remove_then_lock(descriptor: int, how: int) -> None:
        (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)
    with pytest.raises(RunFolderError, match="was in use until a moment ago"), locked(tmp_path):
        raise AssertionError


def test_without_locks_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path), locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_the_folder_when_its_holder_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    held = threading.Event()
    order: list[str] = []

    def hold() -> None:
        with locked(folder):
            held.set()
            time.sleep(0.5)
            order.append("first")

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with locked(folder, wait=True):
        order.append("second")
        assert (folder / LOCK).is_file()
    other.join()
    assert order == ["first", "second"]


def test_many_who_wait_get_the_folder_in_turn(tmp_path: Path) -> None:
    """More of them than there are attempts: each holder removes the file that the others opened."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with alone(tmp_path / ".one"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1] * 12
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_alone_leaves_nothing_behind_not_even_of_a_killed_process(
    tmp_path: Path,
) -> None:
    place = tmp_path / ".one"
    place.mkdir()
    (place / LOCK).write_text("1")
    with alone(place):
        assert (place / LOCK).read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []
