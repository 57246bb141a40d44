"""Which evaluation is meant, where run folders hold several."""

from pathlib import Path

import pytest

from lrat.errors import RunFolderError
from lrat.runs.folder import one_of_each

SELECTED, KEPT = "selected-paper-linf-0.2", "epoch-18-paper-linf-0.2"


def run(folder: Path, *evaluations: str) -> Path:
    """A run folder with finished evaluations of these names."""
    for name in evaluations:
        (folder / "evaluations" / name).mkdir(parents=True)
        (folder / "evaluations" / name / "summary.json").write_text("{}")
    return folder


@pytest.mark.parametrize("suite", [None, "paper"])
@pytest.mark.parametrize("counts", [(360, 360), (360, 359)])
def test_that_of_the_selected_weights_is_meant_whatever_the_number_of_images(
    suite: str | None, counts: tuple[int, int], tmp_path: Path
) -> None:
    runs = [
        run(tmp_path / str(number), f"{KEPT}-{count}", f"{SELECTED}-{count}")
        for number, count in enumerate(counts)
    ]
    meant = [f"{SELECTED}-{count}" for count in counts]
    assert [path.name for path in one_of_each(runs, suite)] == meant


def test_the_one_that_all_places_have_is_meant(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", f"{KEPT}-360", f"{SELECTED}-360"),
        run(tmp_path / "b", f"{KEPT}-359"),
    ]
    assert [path.name for path in one_of_each(runs, None)] == [f"{KEPT}-360", f"{KEPT}-359"]


def test_several_are_named(tmp_path: Path) -> None:
    names = (f"{SELECTED}-360", f"{SELECTED}-20", "selected-quick-linf-0.2-360")
    runs = [run(tmp_path / name, *names) for name in "ab"]
    with pytest.raises(RunFolderError, match="several evaluations") as caught:
        one_of_each(runs, None)
    assert all(name in str(caught.value) for name in names)
