"""The measurement of shared batches runs, and both ways do the same passes."""

from pathlib import Path

from experiments.commands import script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "shared_batches.py"


def test_a_tiny_run(tmp_path: Path) -> None:
    written = tmp_path / "deep" / "shared.md"
    output = script(SCRIPT, "--quick", "--threads", "1", "--out", written)
    assert written.read_text() == output
    lines = [line for line in output.splitlines() if line.startswith("|")]
    titles, _, cells = ([cell.strip() for cell in line.split("|")] for line in lines)
    assert len(titles) == len(cells)
    assert cells[titles.index("rows together")] == "6"
    first = titles.index("forwards + gradients per image, apart")
    assert cells[first : first + 2] == ["4 + 4", "4 + 4"]
