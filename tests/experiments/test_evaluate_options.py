"""``lrat evaluate`` with a time, parts, kept images, transfer, other noise: end to end, tiny."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lrat as package
from builders import seeded
from experiments.commands import TINY, done, lrat
from experiments.own import arrays, write_model
from lrat.acceleration import View
from lrat.attacks import PGD, Variant
from lrat.cli.options import fraction_of, seconds_in
from lrat.errors import NonFiniteError, SettingError
from lrat.evaluation import EvaluationResult, custom
from lrat.models import SmallCNN
from lrat.runs.suites import Carried
from lrat.threat import Linf

SUITE = """
name: short
attacks:
  pgd: {attack: pgd, steps: 2}
  apgd: {attack: apgd, steps: 4, restarts: 2}
  square: {attack: square, queries: 5}
"""
NAMES = ["natural", "pgd", "apgd", "square", "worst"]


@pytest.fixture
def short(tmp_path: Path) -> tuple[str, ...]:
    """A short suite on 40 images, 8 at once."""
    path = tmp_path / "short.yaml"
    path.write_text(SUITE)
    return ("--limit", "40", "--suite", str(path), "--batch-size", "8")


def only_evaluation(run: Path) -> Path:
    (folder,) = (run / "evaluations").iterdir()
    return folder


def table(out: str) -> list[str]:
    """The lines of the table and below, without where the evidence is."""
    return [line for line in out.splitlines() if not line.startswith("evidence in ")]


def names(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[2:7]]


def test_a_time_that_is_enough_changes_nothing(run: Path, short: tuple[str, ...]) -> None:
    whole = done("evaluate", run, *short)
    shutil.rmtree(run / "evaluations")
    assert done("evaluate", run, *short, "--time", "1h") == whole


def test_a_time_that_is_over_is_told_and_the_same_command_continues(
    run: Path, short: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time jumps on by a minute whenever somebody looks at the clock."""
    whole = done("evaluate", run, *short)
    shutil.rmtree(run / "evaluations")
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            nonlocal now
            now += 60
            return now

    for module in ("evaluate", "runner"):
        monkeypatch.setattr(f"lrat.evaluation.{module}.time", Clock)
    first = done("evaluate", run, *short, "--time", "9m")
    assert names(first) == NAMES
    note = next(line for line in first.splitlines() if line.startswith("note: "))
    assert note.startswith("note: stopped after 540 s with ")
    assert note.endswith(" of 40 images; intervals are for these, the same command continues")
    assert not (only_evaluation(run) / "summary.json").exists()
    monkeypatch.undo()
    assert done("evaluate", run, *short) == whole


def test_no_image_in_time_is_one_line(run: Path, short: tuple[str, ...]) -> None:
    complaint = lrat("evaluate", run, *short, "--time", "0.000001s").complaint
    assert complaint.startswith("no image was finished within 1e-06 seconds: allow more")
    done("evaluate", run, *short)


def test_images_are_kept(run: Path, short: tuple[str, ...]) -> None:
    plain = table(done("evaluate", run, *short))
    assert table(done("evaluate", run, *short, "--images")) == plain
    folder = next(each for each in (run / "evaluations").iterdir() if "-images-" in each.name)
    result = EvaluationResult.from_folder(folder)
    files = sorted((folder / "images").glob("square-*.safetensors"))
    index = torch.cat([load_file(path)["index"] for path in files]).numpy()
    rows = result.outcomes.under("square")
    assert sorted(index) == sorted(rows.index[rows.forwards > 0])
    assert all(load_file(path)["images"].shape[1:] == (1, 8, 8) for path in files)


def test_attacks_are_carried_over_from_another_run(
    run: Path, trained: Path, short: tuple[str, ...]
) -> None:
    other = run.parent / "other"
    shutil.copytree(trained, other)
    options = ("--limit", "20", *short[2:])
    out = done("evaluate", run, *options, "--transfer", f"{other}/")
    assert [line.split()[0] for line in out.splitlines()[2:8]] == [
        *NAMES[:-1],
        "pgd-20-from-other",
        "apgd-t-from-other",
    ]
    folder = only_evaluation(run)
    assert folder.name.startswith("selected-short-linf-0.2-20-from-other-")
    told = json.loads((folder / "identity.json").read_text())["attacks"]["apgd-t-from-other"]
    assert told.startswith("Carried(attack=APGD(")
    digest = json.loads((folder / "identity.json").read_text())["model"]
    assert f"name='{digest[:16]}'" in told, "the same weights, so the same name"
    result = EvaluationResult.from_folder(folder)
    assert result.passes["pgd-20-from-other"].forwards == pytest.approx(
        20 * result.accuracy["natural"].value
    )


def test_runs_of_one_name_are_told_apart(
    run: Path, trained: Path, tmp_path: Path, short: tuple[str, ...]
) -> None:
    places = [tmp_path / folder / "other" for folder in ("a", "b")]
    shutil.copytree(trained, places[0])
    done("train", "sat", *TINY, "--epochs", 1, "--seed", 5, "--out", places[1])
    options = ("--limit", "10", *short[2:])
    done("evaluate", run, *options, *(part for place in places for part in ("--transfer", place)))
    attacks = json.loads((only_evaluation(run) / "identity.json").read_text())["attacks"]
    carried = [name for name in attacks if name.startswith("pgd-20-from-other-")]
    assert len(carried) == 2
    for name in carried:
        assert f"name='{name.rpartition('-')[2]}" in attacks[name]


@pytest.mark.parametrize(("acceleration", "kind"), [("auto", View), ("off", SmallCNN)])
def test_models_that_attacks_are_made_on_are_seen_as_fast(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, acceleration: str, kind: type
) -> None:
    sources = set()
    plain = Carried.__call__

    def watched(self: Carried, *arguments: Any, **named: Any) -> Variant:
        sources.add(type(self.source))
        return plain(self, *arguments, **named)

    monkeypatch.setattr(Carried, "__call__", watched)
    done("evaluate", run, "--limit", 8, "--transfer", trained, "--acceleration", acceleration)
    assert sources
    assert all(issubclass(source, kind) for source in sources)


class Rooted(nn.Module):
    """Its gradient at 0 is NaN, its logits are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1).pow(2).sqrt())


def test_a_source_whose_gradient_is_nan_is_named() -> None:
    source, victim = (
        seeded(0, Rooted),
        seeded(1, lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3))),
    )
    images = torch.zeros(5, 1, 2, 2)
    data = (images, victim(images).argmax(1))
    ball = Linf(epsilon=0.1)
    attack = PGD(threat=ball, steps=2, step_size=0.05, start="none")
    carried = custom(ball, {"carried": Carried(attack=attack, source=source, name="rooted")})
    with pytest.raises(NonFiniteError, match="model rooted"):
        package.evaluate(victim, data, threat=ball, suite=carried)


def test_models_that_cannot_be_the_source_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    complaint = lrat("evaluate", run, *short, "--transfer", "gone").complaint
    assert complaint.startswith("gone is no run folder")
    write_model("model.py")
    np.savez("test.npz", **arrays(12))
    command = ("evaluate", "--model-file", "model.py:make", "--data", "npz:test.npz")
    complaint = lrat(*command, "--threat", "linf:0.1", "--transfer", run).complaint
    assert complaint.startswith(
        "pgd-20-from-run, transferred from another run's model: SmallCNN takes"
    )


def test_sequential_noise(run: Path, short: tuple[str, ...]) -> None:
    keyed = done("evaluate", run, *short)
    drawn = done("evaluate", run, *short, "--noise", "sequential", "--acceleration", "off")
    assert names(drawn) == NAMES
    assert table(drawn) != table(keyed)
    (folder,) = run.glob("evaluations/selected-short-linf-0.2-40-sequential-*")
    identity = json.loads((folder / "identity.json").read_text())
    assert identity["noise"] == "sequential, 8 at once"
    for option in (("--time", "1h"), ("--part", "1/2")):
        complaint = lrat("evaluate", run, *short, "--noise", "sequential", *option).complaint
        assert complaint.startswith("sequential noise depends on all images at once")


def test_parts_and_then_the_whole(run: Path, short: tuple[str, ...]) -> None:
    whole = done("evaluate", run, *short)
    shutil.rmtree(run / "evaluations")
    for number in (1, 2):
        out = done("evaluate", run, *short, "--part", f"{number}/2")
        assert "n 20, seed 0" in out
        assert f"note: part {number} of 2: when the others are done too, the same command" in out
        assert not (only_evaluation(run) / "summary.json").exists()
    folder = only_evaluation(run) / "outcomes"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert done("evaluate", run, *short) == whole
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        (("--time", "soon"), "time 'soon': write 90s, 30m or 2h"),
        (("--time", "0s"), "time '0s': write 90s, 30m or 2h"),
        (("--time", "-5"), "time '-5': write 90s, 30m or 2h"),
        (("--part", "half"), "part 'half': write i/n with i from 1 to n, as 2/4"),
        (("--part", "0/2"), "part '0/2': write i/n with i from 1 to n, as 2/4"),
        (("--part", "3/2"), "part '3/2': write i/n with i from 1 to n, as 2/4"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    option: tuple[str, str], cause: str, run: Path
) -> None:
    assert lrat("evaluate", run, *option).complaint == cause
    assert not (run / "evaluations").exists()


def test_a_part_without_images_is_told(run: Path) -> None:
    complaint = lrat("evaluate", run, "--limit", 10, "--part", "11/11").complaint
    assert complaint == "part 11/11: there are 10 images, divide them by fewer"


def test_times_and_parts_as_people_write_them() -> None:
    assert [seconds_in(text) for text in ("90", "90s", "1.5m", " 2h ")] == [90, 90, 90, 7200]
    assert fraction_of("2/4") == (2, 4)
    for text in ("", "s", "1d", "1h30m", "nan"):
        with pytest.raises(SettingError):
            seconds_in(text)


MODEL = """
import torch
from torch import nn


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(90, 3)

    def forward(self, images):
        return self.layer(images.flatten(1) {by})


def make():
    return Shifted()
"""


def test_another_version_of_a_model_file_is_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: tuple[str, ...]
) -> None:
    """The weights are the same, the numbers are not: nothing old is read back."""
    monkeypatch.chdir(tmp_path)
    np.savez("test.npz", **arrays(45))
    command = ("evaluate", "--model-file", "model.py:make", "--data", "npz:test.npz", *short[2:])
    command += ("--threat", "linf:0.1", "--out", "kept")
    Path("model.py").write_text(MODEL.replace("{by}", "- 0.5"))
    first = done(*command)
    assert done(*command) == first
    Path("model.py").write_text(MODEL.replace("{by}", "* -4"))
    second = done(*command)
    assert table(second) != table(first)
    assert len(list(Path("kept").iterdir())) == 2
    Path("model.py").write_text(MODEL.replace("{by}", "- 0.5"))
    assert done(*command) == first
