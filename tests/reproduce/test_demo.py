"""The demonstration as a user types it, on fewer images and a narrower network."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands import Answer, contents, done, lrat
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.reproduce import demo
from lrat.reproduce.demo import ROWS, conclusion
from lrat.reproduce.paper import TABLE_1, TABLE_2
from lrat.reproduce.presets import DEMO

pytestmark = [
    pytest.mark.xdist_group("demo"),  # one demonstration for all tests here
    pytest.mark.usefixtures("small"),
]
COMMAND = ("demo", "--epochs", "1", "--suite", "quick", "--workers", "1")


@pytest.fixture(scope="module")
def small(in_this_process: None) -> Iterator[None]:
    settings = {
        **DEMO.settings,
        "data": {"name": "digits", "train_limit": 150},
        "model": {"name": "small-cnn", "width": 4},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "DEMO", replace(DEMO, settings=settings, autoattacked=12))
        patch.setenv("COLUMNS", "120")
        yield


@pytest.fixture(scope="module")
def shown(small: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    answer = lrat(*COMMAND, "--out", out)
    assert answer.status == 0, answer.err
    return out, answer


def test_it_trains_and_attacks_all_rows_of_table_1(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    assert {path.name for path in out.iterdir()} == {*ROWS, "table.md", "report.html"}
    assert set(ROWS) == {*TABLE_1, "sat-0.22eps"}
    for name in ROWS:
        assert (out / name / "model.safetensors").is_file()
        (evaluation,) = (out / name / "evaluations").iterdir()
        summary = json.loads((evaluation / "summary.json").read_text())
        assert summary["images"] == 360
        assert list(summary["accuracy"]) == ["natural", "pgd-20", "cw-20"]


def test_the_table_is_on_the_terminal_and_in_the_folder(shown: tuple[Path, Answer]) -> None:
    out, answer = shown
    text = (out / "table.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Table 1 on digits: accuracy in per cent, Linf(epsilon=0.2), n 360",
        "## The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images",
    ]
    assert "1 epoch each, seed 0, suite quick" in text
    for name in TABLE_1:
        assert sum(line.startswith(f"| {name} |") for line in text.splitlines()) == 2
        assert any(line.split()[:1] == [name] for line in answer.out.splitlines())
    assert "| sat | 83.17 | 51.14 | 49.95 | 46.12 |" in text
    assert text.count("What this shows: one seed and 360 test images") == 1
    assert text.count("against sat-0.22eps and on the same images") == 1
    assert "exact McNemar test" in " ".join(answer.out.split())
    table, page = answer.out.splitlines()[-2:]
    assert table.endswith(f"this table is in {out / 'table.md'}")
    assert page == f"everything about the runs: {out / 'report.html'}"
    assert answer.err == ""


def lines_of(out: Path) -> dict[str, list[str]]:
    """The cells of our table by the first of their line."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (out / "table.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    return {line[0]: line[1:] for line in lines[: 2 + len(demo.ROWS)]}


def test_cells_are_what_the_evaluations_found(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    rows = lines_of(out)
    assert rows[""] == ["natural", "pgd-20", "cw-20", "worst case", "forwards"]
    (evaluation,) = (out / "lrat-cw" / "evaluations").iterdir()
    summary = json.loads((evaluation / "summary.json").read_text())
    shares = [*summary["accuracy"].values(), summary["worst_case"]]
    value, low, high = ([100 * share[key] for share in shares] for key in ("value", "low", "high"))
    assert rows["lrat-cw"][:-1] == [
        f"{v:.1f} [{a:.1f}, {b:.1f}]" for v, a, b in zip(value, low, high, strict=True)
    ]
    # Ten steps of an attack and one forward of the update; SAA: 3 targets, 20 steps, clean logits.
    passes = {name: row[-1] for name, row in rows.items()}
    assert passes["sat"] == passes["sat-0.22eps"] == passes["lrat-cw"] == "11"
    assert rows["sat"] != rows["sat-0.22eps"]
    assert passes["lrat-saa+cw"] == str(int(passes["lrat-saa"]) + 11)


def test_the_same_command_reuses_what_is_there(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    before = contents(out)
    done(*COMMAND, "--out", out)
    now = contents(out)
    for files in (before, now):
        del files["report.html"]  # it says when it was made
    assert now == before, "metrics with their times, outcomes, weights and table"


def test_the_runs_can_be_compared(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    assert "360 common images" in done("compare", out / "lrat-cw", out / "sat")


def test_another_length_is_refused_with_the_difference(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    before = contents(out)
    again = lrat(*COMMAND, "--epochs", "2", "--out", out)
    assert "training.epochs: 2 asked, 1 in the folder" in again.complaint
    assert contents(out) == before


def test_an_unknown_suite_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    answer = lrat(*COMMAND, "--suite", "quik", "--out", tmp_path / "demo")
    assert "did you mean 'quick'" in answer.complaint
    assert not (tmp_path / "demo").exists()


def test_with_autoattack_the_short_attacks_meet_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "ROWS", ("sat", "sat-0.22eps"))
    done("demo", "--epochs", "1", "--acceleration", "off", "--workers", "1", "--out", tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "n 360 (autoattack and worst case: n 12)" in text
    assert "1 epoch each, seed 0, suite paper, without acceleration" in text
    assert "What this shows: one seed and 12 test images" in text
    columns = ["natural", "pgd-20", "cw-20", "autoattack", "worst case", "forwards"]
    assert lines_of(tmp_path)[""] == columns
    for name, images in (("selected-quick-linf-0.2-360", 360), ("selected-paper-linf-0.2-12", 12)):
        folder = tmp_path / "sat" / "evaluations" / name
        assert json.loads((folder / "summary.json").read_text())["images"] == images
        assert not (folder / "masking.json").exists()


def contrast(group: str, difference: float, p: float) -> GroupContrast:
    return GroupContrast(
        group=group, first="sat-0.22eps", attack="worst case", difference=difference,
        low=None, high=None, basis="images", p=p, detectable=None, size="n = 100", p_images=p,
    )  # fmt: skip


def test_the_paragraph_tells_better_from_worse_from_neither() -> None:
    contrasts = [contrast("up", 0.25, 0.001), contrast("down", -0.18, 0.01), contrast("same", 0, 1)]
    text = conclusion(contrasts, images=100)
    assert "up is better by 25.0 points (p = 0.001)" in text
    assert "down is worse by 18.0 points" in text
    assert "not significant: same" in text
    nothing = conclusion(contrasts[2:], images=100)
    assert "no row differs significantly from it" in nothing


def test_the_papers_rows_are_its_own() -> None:
    assert TABLE_1["lrat-saa"].autoattack == 47.34
    assert TABLE_1["gairat"].pgd == 60.82
    assert TABLE_2["lrat-saa+cw"] is TABLE_1["lrat-saa+cw"]
    assert len({*TABLE_1, *TABLE_2}) == 10
