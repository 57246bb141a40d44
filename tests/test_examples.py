"""The examples run as they are, and show what they say."""

import runpy
from pathlib import Path

import pytest
import torch

from experiments.commands import script

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str) -> dict[str, float]:
    """The accuracies in the table that an example prints, in per cent."""
    lines = script(EXAMPLES / name, quiet=True).splitlines()
    rows = [line.split() for line in lines[2:]]
    return {row[0]: float(row[1]) for row in rows if row[0] not in ("worst", "n")}


def test_an_adaptive_loss_shows_what_pgd_does_not_see() -> None:
    output = run("adaptive_loss.py")
    assert output["pgd-20"] > output["natural"] - 5
    assert output["pgd-20-adaptive"] < output["pgd-20"] - 15
    assert output["apgd-adaptive"] < output["pgd-20"] - 15


def test_a_tracker_of_one_s_own_draws_every_epoch() -> None:
    losses = run("own_tracker.py")
    assert list(losses) == ["1", "2", "3"]
    assert losses["3"] < losses["1"]


def lines_of(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[list[str]]:
    """What a percent-script prints at its tiny size, in words."""
    monkeypatch.setenv("LRAT_EXAMPLE", "quick")
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(EXAMPLES / name))
    out, err = capsys.readouterr()
    assert err == ""
    return [line.split() for line in out.splitlines()]


def test_the_papers_argument_on_digits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of("paper_on_digits.py", monkeypatch, capsys)
    table = {line[0]: line[1:] for line in lines if len(line) == 7 and line[-1].endswith("%")}
    assert list(table) == ["sat", "gairat", "lrat-saa+cw"]
    weights = {line[0]: float(line[2].rstrip("%")) for line in lines[-3:]}
    assert weights["uniform"] == 100.0
    assert weights["gairat"] < weights["lrat"] <= 100.0


def test_a_model_and_images_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = lines_of("own_model.py", monkeypatch, capsys)
    trained = [line[0] for line in lines if "selected," in line]
    assert trained == ["natural:", "sat:"]
    assert ["worst", "case"] in [line[:2] for line in lines]
    assert lines[-1][1:] == ["kB", "of", "weights"]


def test_percent_scripts_say_how_they_are_made_small() -> None:
    for name in ("paper_on_digits.py", "own_model.py"):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert text.startswith("# %% [markdown]\n# # ")
        assert "`LRAT_EXAMPLE=quick`" in text
