"""The benchmark of a PGD step runs, and its table says one pass each way per step."""

from pathlib import Path

from experiments.commands import script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pgd_step.py"


def test_the_benchmark_runs() -> None:
    output = script(SCRIPT, "--quick", "--threads", "1")
    table = [line for line in output.splitlines() if line.startswith("|")]
    columns = {line.count("|") for line in table}
    assert len(columns) == 1, "a Markdown table has as many cells in every row"
    rows = table[2:]
    assert len(rows) == 3
    assert all("| 1 + 1 |" in row for row in rows)
