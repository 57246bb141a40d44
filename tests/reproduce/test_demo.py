import json
from pathlib import Path

import pytest

from experiments.commands import Answer, contents, done, process
from lrat.evaluation.comparison.pairs import Comparison, Contrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.statistics import Proportion, mcnemar, paired_difference
from lrat.reproduce import demo
from lrat.reproduce.demo import ROWS, Plan, _joined, conclusion
from lrat.reproduce.paper import TABLE_1, TABLE_2

pytestmark = pytest.mark.xdist_group("demo")  # one demonstration for all tests here
COMMAND = ("demo", "--epochs", "1", "--suite", "quick")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    answer = process(*COMMAND, "--workers", "2", "--out", out)
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


def test_cells_are_what_the_evaluations_found(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (out / "table.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    header, rows = lines[0], {line[0]: line[1:] for line in lines[2 : 2 + len(ROWS)]}
    assert header == ["", "natural", "pgd-20", "cw-20", "worst case", "forwards"]
    (evaluation,) = (out / "lrat-cw" / "evaluations").iterdir()
    summary = json.loads((evaluation / "summary.json").read_text())
    found = [*summary["accuracy"].values(), summary["worst_case"]]
    assert [float(cell.split()[0]) for cell in rows["lrat-cw"][:-1]] == [
        pytest.approx(100 * share["value"], abs=0.05) for share in found
    ]
    # Ten steps of an attack and one forward of the update; SAA: 3 targets, 20 steps, clean logits.
    passes = {name: row[-1] for name, row in rows.items()}
    assert passes["sat"] == passes["sat-0.22eps"] == passes["lrat-cw"] == "11"
    assert rows["sat"] != rows["sat-0.22eps"]
    assert passes["lrat-saa+cw"] == str(int(passes["lrat-saa"]) + 11)


def test_the_same_command_reuses_what_is_there(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    before = contents(out)
    again = process(*COMMAND, "--workers", "1", "--out", out)
    assert again.status == 0, again.err
    now = contents(out)
    for found in (before, now):
        del found["report.html"]  # it says when it was made
    assert now == before, "metrics with their times, outcomes, weights and table"


def test_the_runs_can_be_compared(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    compared = done("compare", out / "lrat-cw", out / "sat")
    assert "360 common images" in compared


def test_another_length_is_refused_with_the_difference(shown: tuple[Path, Answer]) -> None:
    out, _ = shown
    before = contents(out)
    again = process("demo", "--epochs", "2", "--suite", "quick", "--workers", "1", "--out", out)
    assert "training.epochs: 2 asked, 1 in the folder" in again.complaint
    assert contents(out) == before


def _comparison(only_a: int, only_b: int) -> Comparison:
    share = Proportion(value=0.5, low=0.4, high=0.6, n=100)
    worst = Contrast(
        name=WORST_CASE,
        a=share,
        b=share,
        difference=paired_difference(only_a, only_b, 100),
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )
    return Comparison(contrasts={WORST_CASE: worst}, n=100, n_a=100, n_b=100, threat="linf:0.2")


def test_the_paragraph_tells_better_from_worse_from_neither() -> None:
    text = conclusion(
        {"up": _comparison(30, 5), "down": _comparison(2, 20), "same": _comparison(6, 5)},
        images=100,
    )
    assert "up is better by 25.0 points" in text
    assert "down is worse by 18.0 points" in text
    assert "not told apart: same" in text
    nothing = conclusion({"same": _comparison(6, 5)}, images=100)
    assert "no row can be told apart from it" in nothing


def test_the_papers_rows_are_its_own() -> None:
    assert TABLE_1["lrat-saa"].autoattack == 47.34
    assert TABLE_1["gairat"].pgd == 60.82
    assert TABLE_2["lrat-saa+cw"] is TABLE_1["lrat-saa+cw"]
    assert len({*TABLE_1, *TABLE_2}) == 10


def test_with_autoattack_the_short_attacks_meet_all_images(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "AUTOATTACKED", 12)
    short, whole = Plan(suite="paper").evaluate(run)
    assert (len(short.index), len(whole.index)) == (360, 12)
    joined = _joined([short, whole])
    assert list(joined["accuracy"]) == ["natural", "pgd-20", "cw-20", "autoattack"]
    counts = [share["n"] for share in joined["accuracy"].values()]
    assert counts == [360, 360, 360, 12]
    assert joined["worst_case"]["n"] == 12
    assert joined["worst_case"]["value"] <= joined["accuracy"]["autoattack"]["value"]
