"""The measurement of training in several processes runs, and writes its section alone."""

from pathlib import Path

import pytest

from experiments.commands import script
from experiments.evaluations import has_two_processors

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training_processes.py"
pytestmark = pytest.mark.xdist_group("processes")


@pytest.mark.soak  # six interpreters start; tests/experiments starts them for all that is promised
@pytest.mark.skipif(not has_two_processors(), reason="needs two processors")
def test_a_tiny_run(tmp_path: Path) -> None:
    path = tmp_path / "processes.md"
    path.write_text(
        "# Before\n\nkept\n\n# Training in several processes\n\nold\n\n# After\n\nkept\n"
    )
    model = ("--data", "digits", "--model", "small-cnn", "--width", "4")
    size = ("--images", "64", "--batch-size", "32", "--epochs", "1", "--rounds", "1")
    output = script(SCRIPT, *model, *size, "--into", path)
    expected = f"# Before\n\nkept\n\n{output}\n# After\n\nkept\n"
    assert path.read_text() == expected
    rows = [line.split("|")[1:-1] for line in output.splitlines() if "of one thread" in line]
    alone, both = [[cell.strip() for cell in row] for row in rows]
    assert (alone[0], alone[-1]) == ("1 process of one thread", "1.00")
    assert both[0] == "2 processes of one thread"
    assert float(both[-1]) == pytest.approx(float(both[1]) / float(alone[1]), abs=0.02)
