import multiprocessing
import os
import signal

import pytest

from distributed.tasks import work
from lrat.distributed.children import run_tasks
from lrat.distributed.signals import StopRequest
from lrat.errors import Interrupted, LratError

pytestmark = pytest.mark.xdist_group("demo")


def make(tasks: list[str], *, workers: int, stop: StopRequest | None = None) -> dict[str, int]:
    """Which process made which task."""
    stop = stop or StopRequest()
    return dict(run_tasks(work, tasks, workers=workers, stop=stop))


def test_a_worker_makes_one_task_after_another() -> None:
    made = make(["a", "b", "c"], workers=1)
    assert list(made) == ["a", "b", "c"]
    assert len(set(made.values())) == 1
    assert os.getpid() not in made.values()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("refuse", "^refuse: this cannot be made$"),
        ("die", "^the worker process of die ended by SIGKILL: out of memory, or "),
    ],
)
def test_a_task_that_fails_ends_the_others(task: str, words: str) -> None:
    with pytest.raises(LratError, match=words):
        make(["hang", task, "hang", "hang"], workers=2)
    assert multiprocessing.active_children() == []


def test_when_asked_to_stop_it_interrupts_the_tasks_under_way_and_begins_no_other() -> None:
    stop = StopRequest()
    done = run_tasks(work, ["a", "hang", "b"], workers=1, stop=stop)
    assert next(done)[0] == "a"
    stop.ask("SIGINT")
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT$"):
        next(done)
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_stopped_while_it_starts_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stop = StopRequest()
    stop.ask("SIGINT")
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT$"):
        make(["hang", "hang"], workers=2, stop=stop)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_the_parents_signal_mask_is_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    make(["a"], workers=1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
