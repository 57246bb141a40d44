"""The masking panel from the command line and from Python."""

from pathlib import Path

import pytest
import torch
from torch import nn

import lrat as package
from builders import seeded
from experiments.commands import done, lrat
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.threat import Linf


def only_panel(run: Path) -> Path:
    (found,) = (run / "evaluations").glob("*/masking.json")
    return found


def test_the_panel_is_printed_kept_and_read_back(run: Path) -> None:
    arguments = ("evaluate", run, "--suite", "quick", "--limit", 40, "--masking")
    first = done(*arguments)
    stored = read_json(only_panel(run))
    assert stored["n"] == 40
    assert {check["name"] for check in stored["checks"]} >= {"input gradients", "scaled logits"}
    for check in stored["checks"]:
        assert check["name"] in first
    assert f"masking: {stored['status']}" in first
    before = only_panel(run).stat().st_mtime_ns
    assert done(*arguments) == first
    assert only_panel(run).stat().st_mtime_ns == before


def test_no_panel_of_a_part_is_kept_and_one_of_something_else_is_refused(run: Path) -> None:
    arguments = ("evaluate", run, "--suite", "quick", "--limit", 40)
    assert "masking" in done(*arguments, "--part", "1/2", "--masking")
    assert not list(run.glob("evaluations/*/masking.json")), "of an unfinished one none is kept"
    first = done(*arguments, "--masking")
    path = only_panel(run)
    stored = read_json(path)
    assert stored["made_of"]["evaluation"]["images"] == 40
    for key in ("version", "evaluation"):
        of_another = {**stored["made_of"], key: "another"}
        write_json(path, {**stored, "made_of": of_another, "threat": "old"})
        complaint = lrat(*arguments, "--masking").complaint
        assert f"another masking panel ({key}: another there" in complaint
        assert "delete it" in complaint
        assert read_json(path)["threat"] == "old"
    path.unlink()
    assert done(*arguments, "--masking") == first
    assert read_json(path) == stored


def test_a_time_is_for_the_attacks_alone(run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "aa.yaml"
    suite.write_text("name: aa\nattacks: {aa: {attack: autoattack}}\n")
    arguments = ("evaluate", run, "--suite", suite, "--limit", 3, "--threat", "linf:0.9")
    assert "masking:" not in done(*arguments, "--time", "1h")
    assert "masking:" in done(*arguments, "--time", "1h", "--masking")
    assert "masking:" in done(*arguments)


def test_short_suites_have_no_panel_unless_asked(run: Path) -> None:
    assert "masking" not in done("evaluate", run, "--suite", "quick", "--limit", 40)
    assert not list(run.glob("evaluations/*/masking.json"))


def test_a_damaged_panel_is_one_line(run: Path) -> None:
    arguments = ("evaluate", run, "--suite", "quick", "--limit", 40, "--masking")
    done(*arguments)
    only_panel(run).write_text("{")
    assert "masking.json is damaged" in lrat(*arguments).complaint


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1)).softmax(1)


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_from_python(acceleration: str) -> None:
    model = seeded(0, Probabilities)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(30, 1, 8, 8, generator=generator)
    labels = model(images).argmax(1)
    data = (images, labels)
    panel = package.check_masking(model, data, threat=Linf(epsilon=0.1), acceleration=acceleration)
    assert panel.n == 30
    assert panel["logits, not probabilities"].status == "failed"
    assert panel.status == "failed"
