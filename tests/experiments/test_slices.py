"""``lrat train --max-minutes`` and ``--portable``: a run in slices, here and elsewhere."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import TINY, Answer, assert_same_result, contents, done, lrat, records
from experiments.own import write_model, write_npz
from lrat.config.settings import load_config
from lrat.distributed import signals
from lrat.errors import SettingError
from lrat.experiments.train import train_run
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.training.storage import FolderKeeper

SMALL = (*TINY, "--set", "data.train_limit=150", "--set", "training.batch_size=32")
COMMAND = ("train", "sat", *SMALL, "--epochs", "3")


@pytest.fixture
def slice_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """``slice_of(COMMAND, ..., steps=n)``: its ten minutes are over after the n-th step."""
    over: list[Callable[[], object]] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, call: Callable[[], object]) -> None:
            assert seconds == 600
            self.call = call

        def start(self) -> None:
            over.append(self.call)

        def cancel(self) -> None:
            return

    def run(*command: object, steps: int) -> Answer:
        left = steps
        original = FolderKeeper.step_ended

        def step_ended(self: FolderKeeper, *arguments: Any) -> None:
            nonlocal left
            original(self, *arguments)
            left -= 1
            if left == 0:
                over.pop()()

        with monkeypatch.context() as patch:
            patch.setattr(signals.threading, "Timer", Timer)
            patch.setattr(FolderKeeper, "step_ended", step_ended)
            return lrat(*command, "--max-minutes", "10")

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    done(*COMMAND, "--out", folder)
    return folder


def test_slices_add_up_to_the_whole_run(
    whole: Path, tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    out = tmp_path / "run"
    answer = slice_of(*COMMAND, "--out", out, steps=7)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == (
        f"stopped by its limit of 10 minutes in epoch 2 after step 3; saved in {out}: the same "
        "command continues it"
    )
    assert not (out / "model.safetensors").exists()
    answer = slice_of(*COMMAND, "--out", out, steps=3)
    assert answer.out.splitlines()[-1].startswith("stopped by its limit of 10 minutes in epoch 3 ")
    answer = slice_of(*COMMAND, "--out", out, steps=100)
    assert answer.out.splitlines()[-1] == str(out), "it came to its end in time"
    assert_same_result(out, whole)


@pytest.mark.parametrize(
    ("minutes", "cause"),
    [
        ("0", "give the run some time, above 0 minutes"),
        ("-3", "give the run some time, above 0 minutes"),
        ("nan", "give the run some time, above 0 minutes"),
        ("inf", r"no clock runs for more than \d+ minutes; leave it out for a run without a limit"),
        ("1e+12", r"no clock runs for more than \d+ minutes; leave it out for .*"),
    ],
)
def test_no_time_is_refused_before_anything_is_written(
    tmp_path: Path, minutes: str, cause: str
) -> None:
    out = tmp_path / "run"
    for devices in ((), ("--devices", 1)):
        complaint = lrat(*COMMAND, "--out", out, "--max-minutes", minutes, *devices).complaint
        assert re.fullmatch(rf"--max-minutes {re.escape(minutes)}: {cause}", complaint)
    config = load_config({"method": {"name": "sat"}})
    with pytest.raises(SettingError, match=r"^max_minutes="):
        train_run(config, out, max_minutes=float(minutes))
    assert not out.exists()


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_folder_that_was_carried_is_all_that_is_needed(
    tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    for place in (here, there):
        place.mkdir(parents=True)
        write_npz(place / "pictures.npz")
        write_model(place / "model.py")
    settings = (
        *("train", "lrat-saa+cw", "--model", f"{here}/model.py:make", "--threat", "linf:0.1"),
        *("--data", f"npz:{here}/pictures.npz", "--epochs", "3", *TINY[2:]),
        *("--set", "training.batch_size=32"),
    )
    answer = slice_of(*settings, "--out", here / "run", "--portable", steps=6)
    assert answer.status == 0, answer.err
    line = answer.out.splitlines()[-1]
    assert line.startswith("stopped by its limit of 10 minutes in epoch 2 after step ")
    assert f"; saved in {here / 'run'} to carry away, 0.0 MB of checkpoints: the same" in line
    assert line.endswith("command continues it, there or here, with fresh momentum")
    shutil.copytree(here / "run", there / "run")
    shutil.rmtree(here)
    # Data and model lie elsewhere too; everything else the folder knows.
    answer = lrat(
        *("train", "--config", there / "run" / "config.yaml", "--out", there / "run"),
        *("--data", f"npz:{there}/pictures.npz", "--model", f"{there}/model.py:make"),
    )
    assert answer.status == 0, answer.err
    assert "momentum starts afresh in epoch 2 after step " in answer.out
    assert (there / "run" / "model.safetensors").is_file()
    assert [len(carried(line)) for line in records(there / "run")] == [0, 1, 0]


def carried(record: dict[str, Any]) -> list[dict[str, str]]:
    """What an epoch's line says about portable checkpoints."""
    return [notice for notice in record["notices"] if notice["guard"] == "portable"]


def test_a_bundled_data_set_needs_the_folder_alone(
    tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    slice_of(*COMMAND, "--out", tmp_path / "run", "--portable", steps=7)
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "run", tmp_path / name / "carried")
        folder = tmp_path / name / "carried"
        done("train", "--config", folder / "config.yaml", "--out", folder)
    assert_same_result(tmp_path / "one" / "carried", tmp_path / "two" / "carried")


def test_a_portable_checkpoint_is_a_third_of_a_whole_one(
    tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    wide = (*COMMAND, "--set", "model.width=32", "--set", "training.selection=last")
    for name, extra in (("whole", ()), ("light", ("--portable",))):
        slice_of(*wide, "--out", tmp_path / name, *extra, steps=2)
    light, whole = (bytes_of(tmp_path / name / "checkpoints") for name in ("light", "whole"))
    assert light < whole / 3
    (path,) = (tmp_path / "light" / "checkpoints").glob("*.json")
    assert json.loads(path.read_text())["portable"] is True


def test_what_was_carried_can_be_evaluated(tmp_path: Path, slice_of: Callable[..., Answer]) -> None:
    slice_of(*COMMAND, "--out", tmp_path / "run", "--portable", steps=7)
    for checkpoint in ("last", "selected"):
        said = done("evaluate", tmp_path / "run", "--checkpoint", checkpoint, "--limit", "10")
        assert "worst case" in said


def test_momentum_makes_a_difference_that_is_not_hidden(
    whole: Path, tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    out = tmp_path / "run"
    slice_of(*COMMAND, "--out", out, "--portable", steps=7)
    done(*COMMAND, "--out", out)
    ours, theirs = records(out), records(whole)
    assert ours[0] == theirs[0]
    assert ours[2]["loss"] != theirs[2]["loss"]
    assert [carried(line) for line in theirs] == [[], [], []]
    (notice,) = carried(ours[1])
    assert notice == {
        "guard": "portable",
        "text": "momentum starts afresh in epoch 2 after step 3, from weights in float16",
    }


def test_how_a_run_is_kept_may_change_on_the_way(
    whole: Path, tmp_path: Path, slice_of: Callable[..., Answer]
) -> None:
    out = tmp_path / "run"
    slice_of(*COMMAND, "--out", out, "--set", "training.checkpoint_every_steps=2", steps=7)
    done(
        *(*COMMAND, "--out", out, "--set", "training.keep_last=5"),
        *("--set", "training.checkpoint_every_steps=1"),
        *("--set", "training.checkpoint_every_minutes=null", "--track", "tensorboard"),
    )
    assert_same_result(out, whole)
    assert len(list((out / "checkpoints").glob("epoch-003-step-*.pt"))) == 4


@pytest.mark.parametrize(
    "assignment",
    ["keep_last=0", "checkpoint_every_steps=0", "checkpoint_every_minutes=0"],
)
def test_how_often_must_be_above_nothing(tmp_path: Path, assignment: str) -> None:
    out = tmp_path / "run"
    complaint = lrat(*COMMAND, "--out", out, "--set", f"training.{assignment}").complaint
    assert complaint.startswith(f"training.{assignment}: ")
    assert not out.exists()


def test_another_version_of_lrat_is_one_line_and_nothing_is_lost(run: Path) -> None:
    for path in (run / "checkpoints").glob("*.json"):
        about = read_json(path)
        write_json(path, {**about, "format": 7, "version": "2.1", "shape": "round"})
    (run / "model.safetensors").unlink()
    before = contents(run)
    complaint = lrat("train", "--config", run / "config.yaml", "--out", run).complaint
    assert "epoch-002.pt has format 7 (of lrat 2.1), this version reads 3" in complaint
    assert contents(run) == before
