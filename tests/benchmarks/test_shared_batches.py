"""The measurement of shared batches runs, and both ways do the same passes."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "shared_batches.py"


def test_a_tiny_run(tmp_path: Path) -> None:
    written = tmp_path / "deep" / "shared.md"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--threads", "1", "--out", str(written)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert written.read_text() == done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    titles, _, cells = ([cell.strip() for cell in line.split("|")] for line in lines)
    assert len(titles) == len(cells)
    assert cells[titles.index("rows together")] == "6"
    first = titles.index("forwards + gradients per image, apart")
    assert cells[first : first + 2] == ["4 + 4", "4 + 4"]
