import re
import shutil
from pathlib import Path

import pytest

from experiments.commands import done, lrat
from experiments.conftest import COMMAND

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
    lines = table(out).splitlines()[2:-1]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line) for line in lines)}


def test_a_run_against_itself(pair: tuple[Path, Path]) -> None:
    out = done("compare", pair[0], pair[0])
    for cells in rows(out).values():
        a, b, difference, _, only_a, only_b, p, verdict = cells
        assert a == b
        assert (difference, only_a, only_b, p) == ("+0.00", "0", "0", "1.0000")
        assert verdict == "cannot be told apart on 60 images"
    assert list(rows(out)) == ["natural", "pgd-20", "cw-20", "worst case"]


def test_two_runs_both_ways(pair: tuple[Path, Path]) -> None:
    ours = rows(done("compare", *pair))
    reverse = done("compare", *reversed(pair))
    assert reverse.startswith(f"a: {pair[1]}\nb: {pair[0]}\n")
    theirs = rows(reverse)
    for name, (a, b, difference, _, only_a, only_b, p, _) in ours.items():
        assert theirs[name][:2] == [b, a]
        assert float(theirs[name][2]) == -float(difference)
        assert theirs[name][4:7] == [only_b, only_a, p]
        assert float(difference) == pytest.approx(100 * (int(only_a) - int(only_b)) / 60, abs=0.01)


def test_evaluation_folders_as_arguments(pair: tuple[Path, Path]) -> None:
    folders = [next((run / "evaluations").iterdir()) for run in pair]
    assert table(done("compare", *folders)) == table(done("compare", *pair))


def test_the_suite_picks_one_of_several(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first = Path(shutil.copytree(pair[0], tmp_path / "first"))
    done("evaluate", first, "--limit", "10", "--suite", "tier")
    complaint = lrat("compare", first, pair[1]).complaint
    assert "holds several evaluations: choose one by --suite or its path" in complaint
    assert "selected-tier-linf-0.2-10" in complaint
    quick = done("compare", first, pair[1], "--suite", "quick")
    assert table(quick) == table(done("compare", *pair))


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
    assert "the data differ" in lrat("compare", tmp_path / "fold", pair[0]).complaint
