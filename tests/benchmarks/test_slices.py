"""The measurement of slices runs, and the breaks are made."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "slices.py"


def test_a_tiny_run(tmp_path: Path) -> None:
    written = tmp_path / "deep" / "slices.md"
    work = tmp_path / "work"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--work", str(work), "--out", str(written)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert written.read_text() == done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("| sat")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "sat, whole",
        "sat, whole, weights then rounded",
        "sat, 2 breaks",
        "sat, a break in each of 2 epochs",
    ]
    assert lines[0].count("±") == 0
    assert all(line.count("±") == 3 for line in lines[1:])
    assert all(line.endswith(" MB |") for line in lines[2:])
    metrics = (work / "digits-sat-2-0" / "metrics.jsonl").read_text()
    assert metrics.count("momentum starts afresh") == 2
