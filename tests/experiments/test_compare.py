import json
import re
import shutil
from pathlib import Path

import pytest

import lrat as library
from experiments.commands import done, lrat
from experiments.conftest import COMMAND
from lrat.errors import ConfigurationError
from lrat.evaluation import EvaluationResult

pytestmark = pytest.mark.xdist_group("comparison")  # one pair of runs for all tests here


@pytest.fixture(scope="module")
def pair(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of different methods, each evaluated on the same 60 images."""
    place = tmp_path_factory.mktemp("pair")
    first = Path(shutil.copytree(trained, place / "first"))
    second = place / "second"
    done("train", "natural", *COMMAND[2:], "--out", second)
    for run in (first, second):
        done("evaluate", run, "--limit", "60")
    return first, second


def table(out: str) -> str:
    """What is printed below the names of the two."""
    names, _, rest = out.partition("\n\n")
    assert [line[:3] for line in names.splitlines()] == ["a: ", "b: "]
    return rest


def rows(out: str) -> dict[str, list[str]]:
    """Cells by attack, split at two spaces or more."""
    lines = table(out).partition("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line) for line in lines)}


def test_a_run_against_its_copy(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = done("compare", pair[0], shutil.copytree(pair[0], tmp_path / "copy"))
    for cells in rows(out).values():
        a, b, difference, _, only, p, adjusted, verdict = cells
        assert a == b
        assert (difference, only, p, adjusted) == ("+0.00", "0/0", "1.0000", "1.0000")
        assert verdict == "not significant"
    assert list(rows(out)) == ["natural", "pgd-20", "cw-20", "average", "worst case"]
    assert "a and b do not differ significantly at n = 60, where differences below" in out


def test_two_runs_both_ways(pair: tuple[Path, Path]) -> None:
    ours = rows(done("compare", *pair))
    reverse = done("compare", *reversed(pair))
    assert reverse.startswith(f"a: {pair[1]}\nb: {pair[0]}\n")
    theirs = rows(reverse)
    for name, (a, b, difference, _, only, p, adjusted, _) in ours.items():
        assert theirs[name][:2] == [b, a]
        assert float(theirs[name][2]) == -float(difference)
        only_a, only_b = only.split("/")
        assert theirs[name][4:7] == [f"{only_b}/{only_a}", p, adjusted]
        if name == "average":
            continue
        assert float(difference) == pytest.approx(100 * (int(only_a) - int(only_b)) / 60, abs=0.01)


def test_evaluation_folders_as_arguments(pair: tuple[Path, Path]) -> None:
    folders = [next((run / "evaluations").iterdir()) for run in pair]
    assert table(done("compare", *folders)) == table(done("compare", *pair))


def test_from_python_folders_and_results_alike(pair: tuple[Path, Path]) -> None:
    out = done("compare", *pair)
    assert str(library.compare(*map(str, pair))) == out.rstrip("\n")
    results = [EvaluationResult.from_folder(next((run / "evaluations").iterdir())) for run in pair]
    assert str(library.compare(*results)) == table(out).rstrip("\n")
    for odd in ((results[0],), (*results, results[0]), (pair[0], results[1])):
        with pytest.raises(ConfigurationError, match="two at a time"):
            library.compare(*odd)


def test_of_several_evaluations_the_one_that_both_have_is_meant(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in pair]
    done("evaluate", copies[0], "--limit", "10", "--suite", "tier")
    assert table(done("compare", *copies)) == table(done("compare", *pair))
    done("evaluate", copies[1], "--limit", "10", "--suite", "tier")
    complaint = lrat("compare", *copies).complaint
    both = "selected-quick-linf-0.2-60, selected-tier-linf-0.2-10"
    assert f"choose one by --suite or its path: all have {both}" in complaint
    quick = done("compare", *copies, "--suite", "quick")
    assert table(quick) == table(done("compare", *pair))
    assert done("compare", *copies, "--suite", "selected-quick-linf-0.2-60") == quick
    assert "apgd-t" in rows(done("compare", *copies, "--suite", "tier"))
    complaint = lrat("compare", copies[0]).complaint
    assert "has each evaluation with one seed" in complaint
    for suite, limit in (("quick", 60), ("tier", 10)):
        done("evaluate", copies[0], "--limit", limit, "--suite", suite, "--seed", 1)
    complaint = lrat("compare", copies[0]).complaint
    assert complaint.endswith(f"with several attack seeds: choose one by --suite: {both}")
    assert "n 10, " in done("compare", copies[0], "--suite", "tier")


@pytest.fixture(scope="module")
def own_suite(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file that calls itself otherwise, beside copies of the pair evaluated with it."""
    place = tmp_path_factory.mktemp("own")
    file = place / "short.yaml"
    file.write_text("name: inside\nattacks:\n  fgsm: {attack: fgsm}\n")
    for run in pair:
        done("evaluate", shutil.copytree(run, place / run.name), "--limit", 30, "--suite", file)
    return file


@pytest.mark.parametrize("how", ["short.yaml", "short", "inside"])
def test_a_suite_of_ones_own_is_chosen_by_its_file_or_name(own_suite: Path, how: str) -> None:
    runs = (own_suite.parent / "first", own_suite.parent / "second")
    assert list(rows(done("compare", *runs, "--suite", how))) == ["natural", "fgsm", "worst case"]
    complaint = lrat("compare", *runs, "--suite", "shirt").complaint
    assert "unknown suite 'shirt'" in complaint
    assert "inside" in complaint


def test_runs_of_ones_own_suite_form_groups(own_suite: Path, tmp_path: Path) -> None:
    """What a suite calls itself is no part of the checkpoint that runs are told apart by."""
    first, second = own_suite.parent / "first", own_suite.parent / "second"
    third = tmp_path / "third"
    done("train", *COMMAND[1:], "--seed", "1", "--out", third)
    done("evaluate", third, "--limit", 30, "--suite", own_suite)
    out = done("compare", first, third, second, "--suite", "inside")
    assert "natural against sat" in out
    assert "checkpoint" not in out


def test_only_the_images_that_both_have(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first = Path(shutil.copytree(pair[0], tmp_path / "first"))
    shutil.rmtree(first / "evaluations")
    done("evaluate", first, "--limit", "360")
    assert "60 common images (a has 360, b has 60)" in done("compare", first, pair[1])


def test_what_cannot_be_compared(pair: tuple[Path, Path], trained: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(trained, tmp_path / "first"))
    assert "holds no finished evaluation: run `lrat evaluate" in (
        lrat("compare", first, pair[0]).complaint
    )
    complaint = lrat("compare", pair[0], pair[1], "--suite", "tier").complaint
    assert complaint.endswith("--suite tier`")
    assert "unknown suite 'tear': did you mean 'tier'" in (
        lrat("compare", *pair, "--suite", "tear").complaint
    )
    assert "is no folder" in lrat("compare", pair[0], tmp_path / "nowhere").complaint
    done("evaluate", first, "--limit", "10", "--threat", "linf:0.1")
    assert "the threats differ" in lrat("compare", first, pair[0]).complaint
    shutil.rmtree(first / "evaluations")
    done("train", *COMMAND[1:], "--seed", "1", "--out", tmp_path / "fold")
    done("evaluate", tmp_path / "fold", "--limit", "10")
    folder = next((tmp_path / "fold" / "evaluations").iterdir())
    complaint = lrat("compare", tmp_path / "fold", pair[0]).complaint
    assert "the test images follow the training seed (1 and 0)" in complaint
    (folder / "summary.json").unlink()
    assert "is not finished: run the same" in lrat("compare", folder, pair[0]).complaint
    assert "holds no finished" in lrat("compare", tmp_path / "fold", pair[0]).complaint


def test_nothing_is_compared_with_itself(pair: tuple[Path, Path]) -> None:
    first, second = pair
    assert "is named twice: name every run once" in lrat("compare", first, first).complaint
    folder = next((first / "evaluations").iterdir())
    complaint = lrat("compare", first, second, folder).complaint
    assert f"{folder} is named twice (also as {first})" in complaint


def test_one_run_alone_shows_its_attack_seeds(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(pair[0], tmp_path / "run"))
    assert "is one evaluation: name two runs or more" in lrat("compare", run).complaint
    assert "Missing argument" in lrat("compare").complaint
    done("evaluate", run, "--limit", "60", "--seed", "1")
    out = done("compare", run, "--json", tmp_path / "found.json")
    assert "attack seeds 0, 1" in out
    record = json.loads((tmp_path / "found.json").read_text())
    assert (record["kind"], record["attack_seeds"]) == ("attack seeds", [0, 1])
    natural, pgd = record["spreads"]["natural"], record["spreads"]["pgd-20"]
    assert natural["mean"]["deviation"] == 0
    assert pgd["over_seeds"]["value"] <= min(pgd["values"])
    done("evaluate", run, "--limit", "20")
    assert done("compare", run) == out


@pytest.fixture(scope="module")
def seeds(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of each of two methods, on two folds of the digits."""
    place = tmp_path_factory.mktemp("seeds")
    runs = list(pair)
    for method in ("sat", "natural"):
        runs.append(place / method)
        done("train", method, *COMMAND[2:], "--seed", "1", "--out", runs[-1])
        done("evaluate", runs[-1], "--limit", "60")
    return runs


def test_groups_by_configuration(seeds: list[Path], tmp_path: Path) -> None:
    out = done("compare", *seeds, "--json", tmp_path / "found.json")
    assert max(map(len, out.splitlines())) <= 100
    assert "natural against sat" in out
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["kind"] == "groups"
    assert [(each["name"], each["seeds"]) for each in record["groups"]] == [
        ("sat", [0, 1]),
        ("natural", [0, 1]),
    ]
    assert record["groups"][0]["runs"] == [str(seeds[0]), str(seeds[2])]
    for group, runs in zip(record["groups"], (seeds[::2], seeds[1::2]), strict=True):
        for attack, score in group["scores"].items():
            if attack == "average":
                continue
            found = [_share(run, attack) for run in runs]
            assert score["value"] == pytest.approx(sum(found) / 2)
    assert {each["basis"] for each in record["contrasts"]} <= {"corrected t", "images", "none"}
    assert out.count("\nnatural against") == 1


def _share(run: Path, attack: str) -> float:
    (path,) = (run / "evaluations").glob("*/summary.json")
    summary = json.loads(path.read_text())
    share = summary["worst_case"] if attack == "worst case" else summary["accuracy"][attack]
    return float(share["value"])


def test_groups_are_told_apart_by_what_differs(seeds: list[Path], tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    done("train", "sat", *COMMAND[2:], "--epochs", "3", "--out", longer)
    done("evaluate", longer, "--limit", "60")
    out = done("compare", seeds[0], longer, seeds[1])
    assert "sat epochs=3 against sat epochs=2" in out
    assert "natural against sat epochs=2" in out
    copied = Path(shutil.copytree(seeds[0], tmp_path / "copy"))
    complaint = lrat("compare", seeds[0], seeds[1], copied).complaint
    assert f"{seeds[0]} and {copied} are the same configuration with the same seed 0" in complaint
    other = lrat("compare", seeds[0], seeds[1], seeds[2].parent).complaint
    assert "holds no finished evaluation" in other
