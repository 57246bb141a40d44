"""Which of several ends is told. Real processes, without anything that connects them."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands_apart import alive, wait_until
from distributed.tasks import end
from experiments.commands import one_thread
from lrat.distributed import children
from lrat.distributed.children import supervise
from lrat.errors import Interrupted, LratError, SettingError

pytestmark = pytest.mark.xdist_group("processes")


@pytest.mark.parametrize(
    ("ends", "kind", "told"),
    [
        (("lost", "refuse late"), SettingError, "^refuse late: this cannot be made$"),
        (("raise", "die late"), LratError, "^process 2 of 2 ended by SIGKILL: out of memory, "),
        (("save late", "save"), Interrupted, "^save late: saved$"),
        (("stop", "lost"), Interrupted, "^stopped by SIGINT while no step was under way: "),
    ],
)
def test_the_end_that_explains_most_is_told(
    ends: tuple[str, str], kind: type[LratError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        supervise(end(*ends), 2, saves_itself=True)
    assert multiprocessing.active_children() == []


def test_what_the_first_one_returns_comes_back_as_it_is() -> None:
    assert supervise(end("a"), 1, saves_itself=False) == "a"


def test_a_signal_before_they_work_stops_them_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It waits for each: there is no moment at which it is lost."""
    start, started = children.start_child, []

    def start_and_signal(*arguments: Any, **named: Any) -> Any:
        started.append(start(*arguments, **named))
        if len(started) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(children, "start_child", start_and_signal)
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM while no step was under way"):
        supervise(end("hang", "hang", "hang"), 3, saves_itself=True)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_what_the_parent_hands_on_and_the_whole_group_gets_counts_once() -> None:
    with pytest.raises(Interrupted, match=r"^saved at SIGUSR1$"):
        supervise(end("heed"), 1, saves_itself=True)


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (("hang", "stop"), "^stopped by SIGINT while no step was under way: "),
        (("save", "hang"), "^save: saved$"),
    ],
)
def test_who_waits_for_one_that_was_stopped_is_not_waited_for(
    ends: tuple[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_SECONDS_TO_FOLLOW", 0.1)
    with pytest.raises(Interrupted, match=told):
        supervise(end(*ends), 2, saves_itself=True)
    assert multiprocessing.active_children() == []


STUCK_MEMBER = """
import sys
from pathlib import Path
from distributed.tasks import Stuck
from lrat.distributed.children import supervise
supervise(Stuck(sys.argv[1]), 1, saves_itself=True)
"""


def test_one_that_cannot_save_itself_does_not_outlive_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "process"
    parent = subprocess.Popen(
        [sys.executable, "-c", STUCK_MEMBER, str(note)],
        env=one_thread() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        wait_until(lambda: note.exists() or parent.poll() is not None)
        assert parent.poll() is None
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(int(note.read_text())))


STUCK = """
import ctypes, os, sys
from lrat.distributed import signals
signals.SAME_WITHIN_SECONDS = signals._SECONDS_TO_LEAVE = 0.2
with signals.left_at_the_second_signal(), signals.holding():
    print("here", flush=True)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    for _ in range(2):
        libc.pthread_mutex_lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex is all zeros there")
def test_a_second_signal_ends_one_that_waits_where_no_handler_runs() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        env=one_thread(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "here\n"
        for number in (signal.SIGTERM, signal.SIGINT):  # the second is the first come again
            running.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 130
        assert running.stderr is not None
        assert "stopped at once, in the middle of a step" in running.stderr.read()
    finally:
        running.kill()
        running.communicate()
