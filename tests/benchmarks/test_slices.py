"""The measurement of slices runs, and the breaks are made."""

from pathlib import Path

from experiments.commands import script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "slices.py"


def test_a_tiny_run(tmp_path: Path) -> None:
    written = tmp_path / "deep" / "slices.md"
    work = tmp_path / "work"
    output = script(SCRIPT, "--quick", "--work", work, "--out", written)
    assert written.read_text() == output
    lines = [line for line in output.splitlines() if line.startswith("| sat")]
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
