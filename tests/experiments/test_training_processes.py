"""Training in two processes: the command as it is typed, stopped in every way there is."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from commands_apart import Forked, alive, all_gone, children_of, forked, wait_until
from experiments.commands import (
    assert_same_result,
    contents,
    done,
    lrat,
    one_thread,
    process,
    records,
)
from experiments.evaluations import has_two_processors
from lrat.hardware import processors

pytestmark = pytest.mark.xdist_group("processes")
two = pytest.mark.skipif(
    not has_two_processors() or not Path("/proc/self/stat").exists(),
    reason="needs two processors and reads /proc",
)
EPOCHS = 30
TINY = ("--set", "model.width=4", "--set", "attack.steps=3", "--set", "data.train_limit=170")
TRAIN = ("train", "sat", *TINY, "--epochs", EPOCHS, "--set", "training.batch_size=50")
MANY = processors() + 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    answer = process(*TRAIN, "--out", out, "--devices", 2)
    assert answer.status == 0, answer.err
    assert answer.err == "", "nothing of Fabric, and no warning"
    assert answer.out.splitlines()[-1] == str(out)
    assert answer.out.count(f"epoch {EPOCHS}/{EPOCHS}  loss") == 1, "the first process alone prints"
    return out


@two
def test_the_images_of_a_step_are_those_of_one_process(whole: Path, tmp_path: Path) -> None:
    """What BatchNorm makes of half of them differs, nothing else."""
    done(*TRAIN, "--epochs", 1, "--out", tmp_path / "alone")
    spread, alone = records(whole)[0], records(tmp_path / "alone")[0]
    for name in ("epoch", "steps", "images", "passes", "lr"):
        assert spread[name] == alone[name], name
    assert spread["loss"] == pytest.approx(alone["loss"], rel=0.1)
    assert spread["loss"] != alone["loss"]
    assert spread["validation"]["natural"] == pytest.approx(alone["validation"]["natural"], abs=0.2)


@two
def test_stopped_in_every_way_it_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with training(out) as running:
        os.killpg(running.pid, signal.SIGINT)
        said, err = running.communicate(timeout=120)
        assert running.returncode == 130, err
        told = rf"SIGINT (in epoch \d+ after step \d+|after epoch \d+); saved in {out}"
        assert re.fullmatch(f"lrat: stopped by {told}: the same command continues it\n", err)
        assert said.count("SIGINT: stopping after the step under way") == 1

    with training(out) as running:  # one of them dies
        children = children_of(running.pid)
        assert len(children) == 2
        os.kill(children[1], signal.SIGKILL)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 2
        assert err == (
            "lrat: process 2 of 2 ended by SIGKILL: out of memory, or killed? What is done is "
            "kept, the same command continues\n"
        )
        assert not any(alive(child) for child in children)

    with training(out) as running:  # the one that started them dies: they save themselves
        before, children = checkpoints(out)[-1], children_of(running.pid)
        running.kill()
        running.communicate()
        wait_until(partial(all_gone, children))
        assert checkpoints(out)[-1] > before
        assert not (out / ".lock").exists()

    # Gone on with under torchrun, which hands Ctrl-C on to ranks that heard it; ended under SLURM.
    reached, command = epochs_of(out), [*map(str, TRAIN), "--out", str(out), "--devices", "2"]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m")
    with started(*launcher, "lrat", *command) as torchrun:
        wait_until(lambda: epochs_of(out) >= reached + 2 or torchrun.poll() is not None)
        os.killpg(torchrun.pid, signal.SIGINT)
        said, err = torchrun.communicate(timeout=120)
    assert said.count("continuing ") == 1, "the first process alone prints"
    assert err.count("lrat: ") == 1, err
    assert "lrat: stopped by SIGINT " in err
    assert epochs_of(out) < EPOCHS

    with started(*slurm(0, command)) as first, started(*slurm(1, command)) as second:
        said, err = first.communicate(timeout=120)
        assert (first.returncode, err) == (0, "")
        assert said.splitlines()[-1] == str(out)
        assert second.communicate(timeout=60) == ("", "")
        assert second.returncode == 0
    assert_same_result(out, whole)


SLOW = """
import os, time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))

    @property
    def _ddp_params_and_buffers_to_ignore(self):
        here = Path(__file__).parent
        (here / f"here-{os.getpid()}").touch()
        while not (here / "go").exists():
            time.sleep(0.05)
        return []

def make():
    return Slow()
"""
"""A model that takes its time when DDP wraps it: all have met and none is at a step."""


@two
def test_stopped_before_the_first_step_it_saves_that_step_also_to_carry_away(
    tmp_path: Path,
) -> None:
    """By a signal, and by the death of the command: nobody trains on."""
    out, model, go = (tmp_path / name for name in ("run", "model.py", "go"))
    model.write_text(SLOW)
    settings = ("--set", "acceleration=off", "--model", f"{model}:make", "--epochs", 40)
    command = (*TRAIN, *settings, "--out", out, "--devices", 2, "--portable")
    for number, status in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with forked(*command) as running:
            wait_until(
                lambda: len(list(tmp_path.glob("here-*"))) == 2 or running.poll() is not None
            )
            assert running.poll() is None, running.communicate()
            children = children_of(running.pid)
            running.send_signal(number)
            time.sleep(0.5)  # until they have heard of it
            go.touch()
            wait_until(partial(all_gone, children))
            said, err = running.communicate(timeout=60)
        assert running.returncode == status, err
        assert not (out / ".lock").exists()
        if number is signal.SIGTERM:
            told = f"lrat: stopped by SIGTERM in epoch 1 after step 1; saved in {out} to carry away"
            assert err.startswith(told), err
            assert err.endswith("continues it, there or here, with fresh momentum\n")
            assert checkpoints(out) == ["epoch-001-step-000001-portable"]
        else:
            assert "continuing in epoch 1 after step 1\n" in said
            assert checkpoints(out) == ["epoch-001-step-000002-portable"]
        for each in (go, *tmp_path.glob("here-*")):
            each.unlink()


@two
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """Here one of them does not move, so that no step can end."""
    out = tmp_path / "run"
    with training(out) as running:
        children = children_of(running.pid)
        os.kill(children[1], signal.SIGSTOP)
        os.kill(running.pid, signal.SIGINT)
        time.sleep(0.5)
        assert running.poll() is None, "it waits for the step under way"
        os.kill(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert err == "lrat: interrupted\n"
        assert not any(alive(child) for child in children)


@two
def test_what_the_first_one_refuses_ends_all_in_one_line(whole: Path) -> None:
    before = contents(whole)
    complaint = lrat(*TRAIN, "--seed", 1, "--out", whole, "--devices", 2).complaint
    assert "holds a run of another configuration (seed: 1 asked, 0 in the folder)" in complaint
    assert contents(whole) == before


@two
def test_an_error_in_one_process_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(BROKEN)
    model = f"{tmp_path / 'model.py'}:make"
    complaint = lrat(*TRAIN, "--model", model, "--out", tmp_path / "run", "--devices", 2).complaint
    assert "ValueError: it is broken" in complaint
    assert multiprocessing.active_children() == []


BROKEN = """
import os
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.calls = 0

    def forward(self, images):
        self.calls += self.training
        if self.calls > 5 and os.environ["LOCAL_RANK"] == "1":
            raise ValueError("it is broken")
        return self.layer(images.flatten(1))

def make():
    return Broken()
"""


@two
def test_parameters_that_take_no_part_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(IDLE)
    model = f"{tmp_path / 'model.py'}:Idle"
    answer = lrat(*TRAIN, "--model", model, "--out", tmp_path / "run", "--devices", 2)
    assert "some parameters of the model take no part in its logits" in answer.complaint


IDLE = """
from torch import nn

class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(64, 10), nn.Linear(3, 3)

    def forward(self, images):
        return self.layer(images.flatten(1))
"""


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--devices", 0), f"devices 0: choose from 1 to {MANY - 1}, the processors that are here"),
        (("--devices", MANY), f"devices {MANY}: choose from 1 to "),
        (("--nodes", 2), "nodes 2: at least one, and say with devices how many"),
        (("--devices", 1, "--nodes", 2), "--nodes 2: start it with torchrun or srun, or set "),
        (
            ("--devices", 1, "--nodes", 3, "--set", "training.batch_size=64"),
            "training.batch_size=64 is the batch of all processes together, and 3 processes do not "
            "divide it: set training.batch_size=63, or change devices",
        ),
        (
            ("--devices", 1, "--set", "training.sync_batch_norm=true"),
            "training.sync_batch_norm needs CUDA, PyTorch has it for nothing else, and this is cpu",
        ),
        (("--set", "training.sync_batch_norm=true"), "training.sync_batch_norm needs CUDA"),
    ],
)
def test_what_cannot_be_spread_is_one_line(
    options: tuple[object, ...], cause: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert cause in lrat("train", "sat", "--device", "cpu", "--out", out, *options).complaint
    assert not out.exists()


def test_processes_of_torchrun_that_would_all_do_the_same_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    complaint = lrat("train", "sat", "--out", tmp_path / "run").complaint
    assert "torchrun started 4 processes" in complaint


@contextmanager
def training(out: Path) -> Iterator[Forked]:
    """The command, when it has gone on for two epochs in a group of its own."""
    reached = epochs_of(out)
    with forked(*TRAIN, "--out", out, "--devices", 2) as running:
        wait_until(lambda: epochs_of(out) >= reached + 2 or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        assert epochs_of(out) < EPOCHS, "it was stopped in the middle"
        yield running


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a group of its own, nothing of which is left afterwards."""
    running = subprocess.Popen(
        command,
        env=one_thread(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def slurm(rank: int, command: list[str]) -> list[str]:
    """A command as srun starts it in a job of two tasks."""
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }
    return [
        "env",
        *(f"{key}={value}" for key, value in job.items()),
        sys.executable,
        "-m",
        "lrat",
        *command,
    ]


def epochs_of(out: Path) -> int:
    """How many epochs a run has written."""
    with suppress(OSError):
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def checkpoints(out: Path) -> list[str]:
    """From the oldest to the newest: within an epoch after the one before."""
    names = [path.stem for path in (out / "checkpoints").glob("*.json")]
    return sorted(names, key=lambda name: (int(name[6:9]) - ("-step-" in name), name))
