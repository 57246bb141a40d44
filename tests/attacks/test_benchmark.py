"""The benchmark of a PGD step runs, and its table says one pass each way per step."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pgd_step.py"


def test_the_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    columns = {line.count("|") for line in table}
    assert len(columns) == 1, "a Markdown table has as many cells in every row"
    rows = table[2:]
    assert len(rows) == 3
    assert all("| 1 + 1 |" in row for row in rows)
