"""The examples run as they are, and show what they say."""

import subprocess
import sys
from pathlib import Path

from experiments.commands import one_thread

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str) -> dict[str, float]:
    """The accuracies in the table that an example prints, in per cent."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=one_thread(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    rows = [line.split() for line in ended.stdout.splitlines()[2:]]
    return {row[0]: float(row[1]) for row in rows if row[0] not in ("worst", "n")}


def test_an_adaptive_loss_shows_what_pgd_does_not_see() -> None:
    found = run("adaptive_loss.py")
    assert found["pgd-20"] > found["natural"] - 5
    assert found["pgd-20-adaptive"] < found["pgd-20"] - 15
    assert found["apgd-adaptive"] < found["pgd-20"] - 15


def test_a_tracker_of_one_s_own_draws_every_epoch() -> None:
    losses = run("own_tracker.py")
    assert list(losses) == ["1", "2", "3"]
    assert losses["3"] < losses["1"]
