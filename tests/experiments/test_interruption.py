"""Real processes, killed in the middle; the same command goes on and nothing differs."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import assert_same_result, contents, done, lrat, one_thread, process
from experiments.conftest import COMMAND
from lrat.config.settings import load_config
from lrat.errors import Interrupted
from lrat.evaluation import EvaluationResult, Progress
from lrat.experiments import monitoring, train
from lrat.files.write import read_table

pytestmark = pytest.mark.xdist_group("interruption")  # one uninterrupted run for all tests here
EPOCHS = 20
LONG = (
    *("train", "lrat-saa+cw", "--epochs", EPOCHS, "--set", "model.width=4"),
    *("--set", "attack.steps=2", "--set", "attack.saa_steps=2", "--set", "data.train_limit=150"),
    *("--set", "training.batch_size=32", "--set", "training.record_weights=[2, 20]"),
)
# A shell that runs tests in the background has them ignore SIGINT, and children inherit that.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lrat.cli import main
main()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done(*LONG, "--out", folder)
    return folder


@contextmanager
def training(out: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, *map(str, LONG), "--out", str(out)]
    running = subprocess.Popen(
        command, env=one_thread(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def wait_for_epochs(out: Path, running: subprocess.Popen[str], epochs: int) -> None:
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= epochs):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_same_weights(run: Path, other: Path) -> None:
    for path in (run / "weights").iterdir():
        ours, theirs = read_table(path), read_table(other / "weights" / path.name)
        assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_itself_and_the_same_command_goes_on(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with training(out) as running:
        wait_for_epochs(out, running, 2)
        running.send_signal(number)
        said, err = running.communicate(timeout=200)
        assert running.returncode == 130
    assert f"\n{number.name}: stopping after the step under way; a second signal stops" in said
    assert err.startswith(f"lrat: stopped by {number.name} "), err
    assert err.count("\n") == 1
    assert str(out) in err
    reached = (out / "metrics.jsonl").read_text().count("\n")
    assert 2 <= reached < EPOCHS
    assert not (out / "model.safetensors").exists()
    steps = [path for path in (out / "checkpoints").glob("*.json") if "-step-" in path.name]
    assert (
        steps
        or json.loads((out / "checkpoints" / f"epoch-{reached:03d}.json").read_text())["epoch"]
        == reached
    )
    if number is signal.SIGINT:
        answer = process(*LONG, "--out", out)
        assert answer.status == 0, answer.err
        where = (f"continuing after epoch {reached}\n", f"continuing in epoch {reached + 1} after ")
        assert answer.out.startswith(where)
        assert f"epoch {reached}/{EPOCHS}  loss" not in answer.out, "what was done is not repeated"
    else:
        done(*LONG, "--out", out)
    assert_same_result(out, whole)
    assert_same_weights(out, whole)


def test_a_measurement_is_left_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    evaluate = monitoring.evaluate_suite

    def interrupted(*arguments: Any, **settings: Any) -> EvaluationResult:
        def on_progress(progress: Progress) -> None:
            heard.append(progress.attack)
            os.kill(os.getpid(), signal.SIGTERM)

        return evaluate(*arguments, **settings, on_progress=on_progress)

    monkeypatch.setattr(monitoring, "evaluate_suite", interrupted)
    config = load_config(
        {
            "method": {"name": "sat"},
            "attack": {"steps": 1},
            "data": {"train_limit": 64},
            "training": {"epochs": 1},
        }
    )
    with pytest.raises(Interrupted, match="stopped by SIGTERM in epoch 1 after step 1; saved in"):
        train.train_run(config, tmp_path)
    assert heard == ["natural"], "the attack after it was left"
    assert (tmp_path / "checkpoints" / "epoch-001-step-000001-measuring.json").is_file()
    monkeypatch.undo()
    (record,) = train.train_run(config, tmp_path).result.records
    assert record.validation.keys() == {"natural", "pgd-10"}


MODEL = """
import time
from pathlib import Path
from torch import nn

def make():
    (Path(__file__).parent / "here").touch()
    time.sleep(600)
    return nn.Linear(64, 10)
"""


def test_terminated_before_training_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    out, here = tmp_path / "run", tmp_path / "here"
    (tmp_path / "model.py").write_text(MODEL)
    command = [*("-m", "lrat", "train", "sat", "--model", f"{tmp_path}/model.py:make")]
    running = subprocess.Popen(
        [sys.executable, *command, "--out", str(out)],
        env=one_thread(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not here.exists():
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.terminate()
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    assert (running.returncode, err) == (130, "lrat: interrupted\n")
    assert not out.exists()


def test_killed_outright_the_same_command_goes_on(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with training(out) as running:
        wait_for_epochs(out, running, 3)
        running.kill()
        assert running.wait() == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    done(*LONG, "--out", out)
    assert_same_result(out, whole)
    assert_same_weights(out, whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    run: Path, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(run / "checkpoints" / "epoch-002.pt")
    (run / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        out = done(*COMMAND, "--out", run)
    (record,) = caplog.records
    assert "epoch-002.pt is damaged" in record.message
    assert "epoch 2/2  loss" in out
    assert "epoch 1/2  loss" not in out
    assert_same_result(run, trained)


def test_without_a_whole_checkpoint_it_says_so_and_touches_nothing(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.pt"):
        cut(path)
    before = contents(run)
    complaint = lrat(*COMMAND, "--out", run).complaint
    assert complaint.startswith(f"no checkpoint in {run / 'checkpoints'} is whole")
    assert contents(run) == before
