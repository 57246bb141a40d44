"""Killed at random moments, an evaluation still comes to the same outcomes, to the bit."""

import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments.commands import TINY, done
from experiments.evaluations import assert_identical, finish, parts_in, short_suite, start

IMAGES, BATCH = 64, 4


def kill_and_compare(run: Path, suite: str | Path, kills: int, images: int) -> list[int]:
    """Kill that often, continue and compare; returns the parts there were at each kill.

    Each kill waits for the first new part of its life, so that it goes forward, and then for a
    random time, unless by then it has come further than its share: the kills together must not
    bring the evaluation to its end.
    """
    killed = Path(shutil.copytree(run, run.with_name("killed")))
    command = ("--suite", suite, "--limit", images, "--batch-size", BATCH, "--acceleration", "off")
    began = time.monotonic()
    finish(start("evaluate", run, *command, "--no-masking"))
    longest = (time.monotonic() - began) / (kills + 1)
    (whole,) = (run / "evaluations").iterdir()
    folder = killed / "evaluations" / whole.name
    share = parts_in(whole) // (kills + 1)
    chance = random.Random(0)
    reached: list[int] = []
    for _ in range(kills):
        before = parts_in(folder)
        running = start("evaluate", killed, *command, "--no-masking")
        while parts_in(folder) == before:
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        moment = time.monotonic() + chance.uniform(0, longest)
        while time.monotonic() < moment and parts_in(folder) - before < share:
            time.sleep(0.005)
        assert running.poll() is None, running.communicate()
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        assert not (folder / "summary.json").exists(), "and had not ended"
        reached.append(parts_in(folder))
    finish(start("evaluate", killed, *command, "--no-masking"))
    assert_identical(folder, whole)
    return reached


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    done("train", "sat", *TINY, "--epochs", "2", "--out", folder)
    return folder


def test_three_kills_change_nothing(run: Path) -> None:
    reached = kill_and_compare(run, short_suite(run.parent), kills=3, images=IMAGES)
    assert reached == sorted(set(reached)), "it advanced between kills"


@pytest.mark.soak
def test_twenty_kills_change_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kills = 20
    reached = kill_and_compare(run, "paper", kills=kills, images=400)
    assert reached == sorted(set(reached)), "it advanced between kills"
    with capsys.disabled():
        line = f"{len(reached)} of {kills} kills, identical outcomes; parts at each kill: {reached}"
        sys.stdout.write(f"\n{line}\n")
