"""Evaluations as processes: short suites, and what must be equal between two of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments.commands import one_thread
from lrat.evaluation import EvaluationResult
from lrat.experiments.evaluate import attacks_of, evaluation_folder
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.hardware import processors
from lrat.runs.sources import ModelSource

FLOAT_TOLERANCE = 1e-4
"""Float32 results depend on the batch size in their last bits."""
SHORT = """
name: short
attacks:
  pgd: {attack: pgd, steps: 4, restarts: 2}
  apgd: {attack: apgd, steps: 6}
  apgd-t: {attack: apgd, steps: 5, loss: targeted_dlr, targets: 2}
  fab: {attack: fab, steps: 3, targets: 2}
  square: {attack: square, queries: 20}
"""


def short_suite(folder: Path) -> Path:
    """A suite file with every kind of attack of ``paper``, in few steps."""
    path = folder / "short.yaml"
    path.write_text(SHORT)
    return path


def folder_of(run: Path, suite: Path, limit: int) -> Path:
    """Where an evaluation of a run by a suite file goes, also before it is there."""
    subject = ModelSource(run=run).load()
    request = EvaluationRequest(suite=str(suite), limit=limit)
    folder = evaluation_folder(subject, request, attacks_of(subject, request))
    assert folder is not None
    return folder


def has_two_processors() -> bool:
    return processors() >= 2


def start(*arguments: object) -> subprocess.Popen[str]:
    """``lrat ARGUMENTS`` as a process of its own with one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "lrat", *map(str, arguments)],
        env=one_thread(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(running: subprocess.Popen[str]) -> str:
    """What it prints, once it has ended well."""
    out, err = running.communicate(timeout=3000)
    assert running.returncode == 0, err
    return out


def parts_in(folder: Path) -> int:
    """How many parts of outcomes an evaluation has written so far."""
    return len(list((folder / "outcomes").glob("[!.]*")))


def assert_identical(folder: Path, other: Path) -> None:
    """Every column of every row, and the summaries."""
    ours, theirs = (EvaluationResult.from_folder(place) for place in (folder, other))
    for name, column in ours.outcomes.columns().items():
        np.testing.assert_array_equal(column, theirs.outcomes.columns()[name], err_msg=name)
    names = ("summary.json", "identity.json", "extent.json")
    for name in names:
        assert (folder / name).read_text() == (other / name).read_text()


def assert_same_verdicts(folder: Path, other: Path) -> None:
    """Who was fooled by what, and nearly the same margins."""
    ours, theirs = (EvaluationResult.from_folder(place).outcomes for place in (folder, other))
    for name in ("index", "label", "attack", "fooled"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    np.testing.assert_allclose(ours.margin_clean, theirs.margin_clean, atol=FLOAT_TOLERANCE)
