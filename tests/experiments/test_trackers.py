"""``lrat train --track``: TensorBoard, and trackers of users."""

import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from disks import small_disk
from experiments.commands import TINY, assert_same_result, done, lrat, records
from lrat.experiments.monitoring import TensorBoard, build_trackers, scalars
from lrat.training import EpochRecord
from lrat.training.watch import Trackers

SMALL = (*TINY, "--set", "data.train_limit=150", "--set", "training.batch_size=32")
COMMAND = ("train", "lrat-saa+cw", *SMALL, "--epochs", "3")


def curves(run: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run: per name the values by epoch, none twice."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = accumulator.EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    found = {name: shown.Scalars(name) for name in shown.Tags()["scalars"]}
    for name, events in found.items():
        epochs = [event.step for event in events]
        assert len(set(epochs)) == len(epochs), name
    return {name: {event.step: event.value for event in each} for name, each in found.items()}


def test_tensorboard_shows_what_the_metrics_say(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    done(*COMMAND, "--out", out, "--track", "tensorboard")
    shown, lines = curves(out), records(out)
    assert {name.split("/")[0] for name in shown} == {"accuracy", "loss", "weights", "lr", "speed"}
    for line in lines:
        epoch = line["epoch"]
        assert math.isclose(shown["loss/total"][epoch], line["loss"], rel_tol=1e-6)
        assert math.isclose(shown["lr"][epoch], line["lr"], rel_tol=1e-6)
        assert math.isclose(
            shown["accuracy/held-out/pgd-10"][epoch], line["validation"]["pgd-10"], rel_tol=1e-6
        )
        for term in ("saa", "cw"):
            known = line["terms"][term]
            assert math.isclose(shown[f"loss/{term}"][epoch], known["loss"], rel_tol=1e-6)
            name = "effective_sample_size"
            assert math.isclose(shown[f"weights/{term}/{name}"][epoch], known[name], rel_tol=1e-6)
    assert all(shown["speed"][line["epoch"]] > 0 for line in lines)


def test_an_epoch_that_is_trained_again_shows_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    done(*COMMAND, "--out", out, "--track", "tensorboard", "--set", "training.keep_last=3")
    first = curves(out)
    for path in (out / "checkpoints").glob("epoch-00[23].*"):
        path.unlink()  # as if it had been killed before they were written
    (out / "model.safetensors").unlink()
    done(*COMMAND, "--out", out, "--track", "tensorboard")
    again = curves(out)
    assert {name: set(values) for name, values in again.items()} == {
        name: {1, 2, 3} for name in first
    }
    del first["speed"], again["speed"]
    assert again == first
    files = len(list((out / "tensorboard").iterdir()))
    done(*COMMAND, "--out", out, "--track", "tensorboard")
    assert len(list((out / "tensorboard").iterdir())) == files, "nothing new, no new file"


def test_trackers_do_not_decide_the_result(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    done(*COMMAND, "--out", tmp_path / "plain")
    done(*COMMAND, "--out", tmp_path / "tracked", "--track", "tensorboard")
    assert_same_result(tmp_path / "plain", tmp_path / "tracked")
    done(*COMMAND, "--out", tmp_path / "tracked")


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "run"
    complaint = lrat(*COMMAND, "--out", out, "--track", "tensorboard").complaint
    assert complaint == (
        "tracker 'tensorboard' needs a package that is not installed: pip install "
        "'lrat[tensorboard]', or leave the tracker out (metrics.jsonl is written always)"
    )
    assert not out.exists()


OWN = """
class Notes:
    def __init__(self, folder):
        self.path = folder / "notes.txt"

    def write(self, text):
        with open(self.path, "a") as file:
            file.write(f"{text}\\n")

    def begin(self, records):
        self.write(f"begin {len(records)}")

    def on_epoch(self, record):
        self.write(f"epoch {record.epoch}")

    def end(self):
        self.write("end")


class Silent:
    def __init__(self, folder):
        pass

    def on_epoch(self, record):
        pass


class Late(Notes):
    def on_epoch(self, record):
        raise OSError("no route\\nto the tracking server")


def failing(folder):
    raise RuntimeError("no key")


def a_class(folder):
    return Notes


number = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_tracker_of_a_user_s_own(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done(*COMMAND, "--out", out, "--track", f"{own}:Notes")
    done(*COMMAND, "--out", out, "--track", f"{own}:Notes")
    assert (out / "notes.txt").read_text().split("\n") == [
        *("begin 0", "epoch 1", "epoch 2", "epoch 3", "end", "begin 3", "end", ""),
    ]


def test_one_that_fails_breaks_nothing(
    own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    answer = lrat(*COMMAND, "--out", out, "--track", f"{own}:Late", "--track", f"{own}:Notes")
    assert answer.status == 0
    (said,) = caplog.messages
    assert "Late" in said
    assert "no route to the tracking server" in said
    assert (out / "notes.txt").read_text().endswith("epoch 3\nend\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Silent", "lacks begin, end; a tracker has begin, on_epoch, end"),
        ("a_class", "lacks an instance"),
        ("number", "it is int, not a function or class"),
        ("failing", r"fails in own.py, line \d+: RuntimeError: no key"),
        ("absent", "has no 'absent'"),
    ],
)
def test_what_is_no_tracker_is_one_line(own: Path, tmp_path: Path, name: str, message: str) -> None:
    out = tmp_path / "run"
    complaint = lrat(*COMMAND, "--out", out, "--track", f"{own}:{name}").complaint
    assert re.search(message, complaint), complaint
    assert not out.exists()


def test_an_unknown_tracker_is_told_the_known(tmp_path: Path) -> None:
    out = tmp_path / "run"
    complaint = lrat(*COMMAND, "--out", out, "--track", "tensorbord").complaint
    assert complaint.startswith("unknown tracker 'tensorbord': did you mean 'tensorboard'?")
    assert not out.exists()


def record(**values: Any) -> EpochRecord:
    given = {"epoch": 1, "lr": 0.1, "loss": 1.0, "steps": 1, "images": 1, "terms": {}}
    return EpochRecord(**{**given, **values})


def test_numbers_by_group_and_name_without_what_is_not_known() -> None:
    found = scalars(
        record(
            loss=None,
            terms={"cw": {"loss": 2.0, "weight_mean": None, "share": 1.0}},
            robust_accuracy=0.5,
            validation={"pgd-10": 0.25},
            average={"validation/pgd-10": 0.3},
            probe={"pgd-50": 0.2},
        )
    )
    assert found == {
        "accuracy/robust": 0.5,
        "accuracy/held-out/pgd-10": 0.25,
        "accuracy/average/validation/pgd-10": 0.3,
        "accuracy/probe/pgd-50": 0.2,
        "loss/cw": 2.0,
        "weights/cw/share": 1.0,
        "lr": 0.1,
        "speed": 0.0,
    }


def test_on_a_full_disk_tensorboard_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    with small_disk(tmp_path / "disk", pages=2) as disk:
        (disk.folder / "filler").write_bytes(bytes(2 * 4096))
        trackers = build_trackers(["tensorboard"], disk.folder)
        assert isinstance(trackers[0], TensorBoard)
        with Trackers(trackers, []) as told:
            told.on_epoch(record())
            told.on_epoch(record(epoch=2))
        assert "TensorBoard failed" in caplog.text
        assert "training goes on without it" in caplog.text
