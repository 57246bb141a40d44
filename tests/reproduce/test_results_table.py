import pytest

from experiments.commands import python
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.reproduce.demo import RunRow, results_table
from lrat.text import to_markdown


def share(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 200}


QUICK = RunRow(
    name="sat",
    summary={
        "accuracy": {"natural": share(0.9, 0.85, 0.934), "pgd-20": share(0.5, 0.4314, 0.5686)},
        "worst_case": share(0.495, 0.4264, 0.5638),
    },
)
TIER = RunRow(
    name="lrat",
    summary={
        "accuracy": {
            "natural": share(1, 0.9811, 1),
            "apgd-t": share(0, 0, 0.0189),
            "pgd-20": share(0.25, 0.195, 0.3145),
        },
        "worst_case": share(0, 0, 0.0189),
    },
)


def test_cells_are_per_cent_with_their_interval() -> None:
    assert QUICK.cell("natural") == "90.0 [85.0, 93.4]"
    assert QUICK.cell("pgd-20") == "50.0 [43.1, 56.9]"
    assert QUICK.cell(WORST_CASE) == "49.5 [42.6, 56.4]"
    assert TIER.cell("natural") == "100.0 [98.1, 100.0]"
    assert TIER.cell(WORST_CASE) == "0.0 [0.0, 1.9]"


def test_an_attack_that_was_not_run_is_a_dash() -> None:
    assert QUICK.cell("apgd-t") == "–"
    assert QUICK.share("apgd-t") is None


def test_columns_are_all_attacks_in_order_and_then_the_worst_case() -> None:
    table = results_table([QUICK, TIER])
    assert table[0] == ["", "natural", "pgd-20", "apgd-t", "worst case"]
    assert [line[0] for line in table[1:]] == ["sat", "lrat"]
    assert table[1][3] == "–"
    assert table[2][2] == "25.0 [19.5, 31.4]"


def test_further_columns_by_the_name_of_the_run() -> None:
    table = results_table([QUICK, TIER], {"forwards": {"sat": "11"}})
    assert [line[-1] for line in table] == ["forwards", "11", "–"]


def test_without_runs_there_is_a_header_alone() -> None:
    assert results_table([]) == [["", "worst case"]]


def test_markdown_aligns_and_escapes() -> None:
    assert to_markdown([["", "a|b"], ["x|y", "1"]]) == (
        "|  | a\\|b |\n| --- | ---: |\n| x\\|y | 1 |\n"
    )


@pytest.mark.parametrize("rows", [[QUICK], [QUICK, TIER]])
def test_every_line_of_markdown_has_as_many_cells(rows: list[RunRow]) -> None:
    lines = to_markdown(results_table(rows)).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


def test_reporting_imports_no_torch() -> None:
    program = "import sys, lrat.reporting.report, lrat.text; print('torch' in sys.modules)"
    assert python(program) == "False\n"
