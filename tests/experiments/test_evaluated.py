"""What an evaluation is of is in its identity: one that cannot be read is said, never guessed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.commands import lrat
from lrat.errors import RunFolderError
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.reproduce.cell import Attacks, RunTask
from lrat.reproduce.evidence import Evidence, read_run
from lrat.runs.folder import evaluated, read_config
from lrat.runs.sources import ModelSource
from lrat.runs.weights import weights_digest
from reporting.report.reported import make_evaluation, make_run, only, report


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _edited(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


def _as_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/identity.json")


DAMAGES = {
    "a flipped bit": _flip,
    "nothing": lambda path: path.write_bytes(b""),
    "another seed": _edited,
    "a folder": _as_folder,
    "a pipe": _as_pipe,
    "a link to nowhere": _as_link,
}
Damage = Callable[[Path], object]
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def _named_otherwise(folder: Path) -> Path:
    """The suite of an evaluation under such a name stands in its identity alone."""
    return folder.rename(folder.with_name("kept"))


@damaged
def test_an_entry_of_a_damaged_identity_is_not_taken_as_absent(
    damage: Damage, tmp_path: Path
) -> None:
    folder = make_evaluation(tmp_path)
    assert evaluated(folder, "suite") == "paper"
    assert evaluated(tmp_path / "nothing", "suite") is None
    damage(folder / "identity.json")
    with pytest.raises(RunFolderError, match=r"identity\.json.*move its folder away"):
        evaluated(folder, "suite")


@damaged
def test_no_suite_is_chosen_past_a_damaged_identity(damage: Damage, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        other = _named_otherwise(make_evaluation(run, 40, suite="mine"))
        make_evaluation(run, suite="quick")
    assert "mine" not in lrat("compare", *runs, "--suite", "mine").out
    damage(other / "identity.json")
    complaint = lrat("compare", *runs, "--suite", "mine").complaint
    assert f"{other / 'identity.json'} " in complaint
    record = report(*runs, suite="mine")
    shown, left = record.runs
    assert [each.suite for each in shown.evaluations] == ["mine"]
    assert left.evaluations == []
    assert any("identity.json" in problem for problem in left.problems)


@damaged
def test_a_report_tells_what_it_leaves_out(damage: Damage, tmp_path: Path) -> None:
    folder = make_evaluation(tmp_path, home=tmp_path / "theirs")
    other = make_evaluation(tmp_path, home=tmp_path / "theirs", suite="quick")
    damage(folder / "identity.json")
    record = report(tmp_path / "theirs")
    assert [each.suite for each in only(record).evaluations] == ["quick"]
    assert any("identity.json" in each for each in [*record.problems, *only(record).problems])
    shutil.rmtree(other)
    assert "identity.json" in " ".join(only(report(tmp_path / "theirs")).problems)


def test_a_report_tells_that_an_identity_is_gone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = make_evaluation(run)
    (folder / "identity.json").unlink()
    assert any(folder.name in each for each in only(report(run)).problems)


@damaged
def test_a_damaged_evaluation_is_not_made_again(damage: Damage, run: Path) -> None:
    folder = make_evaluation(run, suite="quick", model=_weights_of(run), images=360)
    damage(folder / "identity.json")
    before = sorted(path for path in run.rglob("*"))
    assert "identity.json" in lrat("evaluate", run).complaint
    assert sorted(path for path in run.rglob("*")) == before


def _weights_of(run: Path) -> str:
    return weights_digest(ModelSource(run=run).load().network.state_dict())


def _evidence(run: Path) -> Evidence:
    """What a table reads of a run under the quick attacks."""
    task = RunTask(
        row="sat", seed=0, folder=run, config=read_config(run), checkpoints=("selected",),
        attacks=Attacks(suite="quick"),
    )  # fmt: skip
    return read_run(task, "selected")


@damaged
def test_a_table_names_a_damaged_identity(damage: Damage, run: Path) -> None:
    folder = make_evaluation(run, suite="quick", model=_weights_of(run), images=360)
    assert _evidence(run) is not None
    damage(folder / "identity.json")
    with pytest.raises(RunFolderError, match=r"identity\.json"):
        _evidence(run)


@pytest.mark.parametrize("name", ["-seed-1", "-from-other-0123abcd", "-images"])
def test_a_table_takes_no_evaluation_under_another_request(name: str, run: Path) -> None:
    folder = make_evaluation(run, suite="quick", model=_weights_of(run), images=360)
    folder.rename(folder.with_name(f"{folder.name}-0123abcd"))
    assert _evidence(run).results
    renamed = folder.with_name(f"{folder.name}{name}")
    folder.with_name(f"{folder.name}-0123abcd").rename(renamed)
    with pytest.raises(RunFolderError, match="no finished evaluation"):
        _evidence(run)


def test_a_table_refuses_metrics_that_lack_an_epoch(run: Path) -> None:
    make_evaluation(run, suite="quick", model=_weights_of(run), images=360)
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert any("holds 1 of the 2 epochs" in each for each in _problems(path, lines[:1], run))
    for kept in (lines[:1], lines[1:], [*lines, lines[1]], [lines[0], lines[1][:-9]]):
        path.write_text("".join(kept))
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl"):
            _evidence(run)


def _problems(path: Path, lines: list[str], run: Path) -> list[str]:
    path.write_text("".join(lines))
    return list(only(report(run)).problems)


def test_an_extent_without_its_number_is_not_joined_with_others(tmp_path: Path) -> None:
    folder = make_evaluation(tmp_path, suite="quick")
    _as_folder(folder / "extent.json")
    assert "extent.json" in lrat("merge", folder, "--out", tmp_path / "joined").complaint
    write_json(folder / "identity.json", {**read_json(folder / "identity.json"), "seed": "0"})
    assert "identity.json" in lrat("merge", folder, "--out", tmp_path / "joined").complaint
