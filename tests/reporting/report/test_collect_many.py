"""A report of many runs grows with their number, not with its square."""

from pathlib import Path

import pytest

from lrat.reporting.report.collect import findings
from lrat.reporting.report.page.results import group_tables
from reporting.report.reported import make_evaluation, make_run, report


@pytest.mark.parametrize(("most", "pairs", "columns"), [(3, 4, 1), (5, 10, 5)])
def test_above_a_number_of_runs_the_best_is_tested_against_each(
    most: int, pairs: int, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "_MOST_PAIRED", most)
    for number in range(5):
        run = make_run(tmp_path / f"run-{number}", seed=0, model={"width": number + 1})
        make_evaluation(run, robust=50 + 5 * number)
    record = report(*(tmp_path / f"run-{number}" for number in range(5)))
    (group,) = record.groups
    assert group.runs[0] == "run-4"
    for attack in {pair.contrast.name for pair in group.pairs}:
        tested = [pair for pair in group.pairs if pair.contrast.name == attack]
        assert len(tested) == pairs
        assert sum(pair.first == "run-4" for pair in tested) == 4
    assert ("the best is tested against each" in group.test) is (columns == 1)
    assert f"the {pairs} pairs" in group.test
    (table,) = group_tables(record)
    assert len(table.matrices[0].columns) == columns
    assert [len(row) for row in table.matrices[0].cells] == [columns] * 5
    assert sum(cell.contrast is not None for row in table.matrices[0].cells for cell in row) == (
        4 if columns == 1 else 20
    )
