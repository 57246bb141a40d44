"""Killed twenty times at random moments, a run still comes to the same bits."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.commands import assert_same_result, one_thread
from lrat.files import read_table

pytestmark = pytest.mark.soak
KILLS = 20
EPOCHS = 60
LONGEST_LIFE = 2.5
"""In epochs: the kills together cannot bring the run to its end."""
COMMAND = (
    *(sys.executable, "-m", "lrat", "train", "lrat-saa+cw", "--epochs", str(EPOCHS)),
    *("--set", "model.width=8", "--set", "attack.steps=3", "--set", "attack.saa_steps=3"),
    *("--set", "training.record_weights=[10, 60]", "--set", "training.keep_epochs=[5]"),
)


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--out", str(out)], env=one_thread(), stdout=subprocess.PIPE, text=True
    )


def finish(out: Path) -> None:
    running = start(out)
    running.communicate(timeout=3000)
    assert running.returncode == 0


def epochs_done(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def seconds_per_epoch(out: Path) -> float:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return float(sum(line["seconds"] + line["evaluation_seconds"] for line in lines) / len(lines))


def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    longest = LONGEST_LIFE * seconds_per_epoch(whole)
    chance = random.Random(0)
    lives, reached = [], []
    for _ in range(KILLS):
        running = start(out)
        assert running.stdout is not None
        first = running.stdout.readline()  # where it goes on, or its forecast: it trains
        assert first.startswith(("continuing ", "epoch 1/")), first
        lives.append(chance.uniform(0, longest))
        time.sleep(lives[-1])
        assert running.poll() is None, "it was alive"
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        assert not (out / "model.safetensors").exists(), "and had not ended"
        reached.append(epochs_done(out))
        assert reached[-1] < EPOCHS
    assert len(set(reached)) > KILLS // 4, f"it advanced between kills: {reached}"
    finish(out)
    assert_same_result(out, whole)
    for path in (whole / "weights").iterdir():
        ours, theirs = read_table(out / "weights" / path.name), read_table(path)
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (out / "checkpoints").iterdir()} == names
