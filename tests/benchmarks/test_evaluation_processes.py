"""The measurement of several processes runs, and sees the same verdicts."""

from pathlib import Path

import pytest

from experiments.commands import TINY, done, script
from experiments.evaluations import has_two_processors

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation_processes.py"


@pytest.mark.soak  # nine interpreters start; tests/experiments starts them for all that is promised
@pytest.mark.skipif(not has_two_processors(), reason="needs two processors")
def test_a_tiny_run(tmp_path: Path) -> None:
    run, written = tmp_path / "run", tmp_path / "deep" / "processes.md"
    done("train", "sat", *TINY, "--epochs", "1", "--out", run)
    before = sorted(run.rglob("*"))
    options = ("--suite", "quick", "--limit", "20", "--rounds", "1", "--out", written)
    output = script(SCRIPT, run, *options)
    assert written.read_text() == output
    assert sorted(run.rglob("*")) == before, "the run itself is left alone"
    lines = output.splitlines()
    alone, both = [line.split("|")[1:-1] for line in lines if " of one thread |" in line]
    assert (alone[0].strip(), alone[-1].strip()) == ("1 process of one thread", "1.00")
    assert both[0].strip() == "2 processes of one thread"
    assert lines[-1] == "Verdicts are the same."
