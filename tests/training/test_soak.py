"""Stopped again and again at random moments, a run still comes to the same bits.

Two stops of each kind in the usual tests, twenty of a training that takes minutes in `make soak`.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from experiments.commands import assert_same_result, done, one_thread
from lrat.files.read import parse_object
from lrat.files.write import read_table
from soaking import keep

EVERY_STEPS = 3
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
COMMON = ("train", "lrat-saa+cw", "--set", "training.keep_epochs=[5]")


@dataclass(frozen=True)
class Training:
    """What is trained, and how often it is stopped on the way."""

    stops: int
    epochs: int
    settings: tuple[str, ...]

    @property
    def command(self) -> tuple[str, ...]:
        return (*COMMON, "--epochs", str(self.epochs), *self.settings)

    def start(self, out: Path, *extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "lrat", *self.command, *extra, "--out", str(out)],
            env=one_thread(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


SHORT = Training(
    stops=2,
    epochs=8,
    settings=(
        *("--set", "model.width=4", "--set", "attack.steps=2", "--set", "attack.saa_steps=2"),
        *("--set", "data.train_limit=250", "--set", "training.batch_size=32"),
        *("--set", "training.record_weights=[2, 8]"),
    ),
)
LONG = Training(
    stops=20,
    epochs=60,
    settings=(
        *("--set", "model.width=8", "--set", "attack.steps=3", "--set", "attack.saa_steps=3"),
        *("--set", "training.record_weights=[10, 60]"),
    ),
)


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The run that nobody stopped, trained once."""

    @cache
    def whole(training: Training) -> Path:
        out = tmp_path_factory.mktemp("whole") / "run"
        done(*training.command, "--out", out)
        return out

    return whole


def epochs_done(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def seconds_per_epoch(out: Path) -> float:
    lines = [parse_object(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return float(sum(line["seconds"] + line["evaluation_seconds"] for line in lines) / len(lines))


@contextmanager
def living(
    training: Training, out: Path, *extra: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that trains, and what it said of where it goes on."""
    running = training.start(out, *extra)
    try:
        assert running.stdout is not None
        first = running.stdout.readline()
        while first.startswith("attacks see"):  # a new run says how
            first = running.stdout.readline()
        assert first.startswith(("continuing ", "epoch 1/")), (first, running.communicate())
        yield running, first.strip() if first.startswith("continuing ") else "from the start"
    finally:
        running.kill()
        running.communicate()


def wait(running: subprocess.Popen[str], out: Path, epochs: int, seconds: float) -> None:
    """Until so many more epochs are done, and for so long."""
    wanted = epochs_done(out) + epochs
    deadline = time.monotonic() + 600
    while epochs_done(out) < wanted:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(seconds)


def stop(running: subprocess.Popen[str], number: signal.Signals) -> str:
    """Stop it, and what it says of where it stood."""
    assert running.poll() is None, "it was alive"
    running.send_signal(number)
    _, err = running.communicate(timeout=600)
    if number is signal.SIGKILL:
        assert running.returncode == -number
        return "killed"
    assert running.returncode == 130, err
    (line,) = [line for line in err.splitlines() if line.startswith("lrat: ")]
    said = line.removeprefix("lrat: stopped by SIGTERM ")
    assert said != line, "it was the signal that ended it, and it said so"
    return said.partition(";")[0]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "training",
    [pytest.param(SHORT, id="short"), pytest.param(LONG, marks=pytest.mark.soak, id="long")],
)
@pytest.mark.xdist_group("stops")  # one uninterrupted run for both signals
def test_stops_at_random_moments_change_nothing(
    training: Training, number: signal.Signals, wholes, tmp_path: Path
) -> None:
    whole, out = wholes(training), tmp_path / "stopped"
    pace = seconds_per_epoch(whole)
    chance = random.Random(int(number))
    rows, expected = [], "from the start"
    for life in range(training.stops):
        # Every second life saves itself within epochs as well; both go on from what is there.
        within = life % 2 == 0
        extra = ("--set", f"training.checkpoint_every_steps={EVERY_STEPS}") if within else ()
        with living(training, out, *extra) as (running, begun):
            if number is signal.SIGTERM:
                assert begun.startswith(expected), "nothing of what was done was lost"
            wait(running, out, chance.randint(0, 2), chance.random() * pace)
            stood = stop(running, number)
        reached = epochs_done(out)
        assert reached < training.epochs, "and it had not ended"
        assert not (out / "model.safetensors").exists()
        expected = f"continuing {stood.partition(' step ')[0]}"
        rows.append((life + 1, f"every {EVERY_STEPS}" if within else "–", begun, reached, stood))
    begins = [begun for _, _, begun, _, _ in rows]
    assert len(set(begins)) > training.stops // 3, f"it advanced between stops: {begins}"
    done(*training.command, "--out", out)
    assert_same_result(out, whole)
    for path in (whole / "weights").iterdir():
        ours, theirs = read_table(out / "weights" / path.name), read_table(path)
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (out / "checkpoints").iterdir()} == names
    if training is LONG:
        keep(f"{training.stops} times {number.name}", report(training, number, rows))


def report(training: Training, number: signal.Signals, rows: list[tuple[object, ...]]) -> str:
    lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    return (
        f"`lrat {' '.join(training.command)}`\n\n"
        f"A process at a time, sent {number.name} when up to two more epochs were done and a "
        "random part of one had passed; alive then, and its run unfinished, each time. Every "
        "second one also saves itself within epochs.\n\n"
        "| | within epochs | it went on | epochs in metrics.jsonl when stopped | it stood |\n"
        f"|---|---|---|---|---|\n{lines}\n\n"
        f"{len(rows)} of {len(rows)} stops survived: the same last and selected weights, metrics "
        "(times apart), per-image weights and checkpoint files as the run that nobody stopped, "
        "bit for bit."
    )
