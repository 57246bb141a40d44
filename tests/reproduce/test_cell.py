"""One run of a reproduction: made, gone on with, or read back."""

from dataclasses import replace
from pathlib import Path

from lrat.reproduce.cell import Attacks, RunTask, make_run
from lrat.runs.folder import read_config


def test_a_run_says_whether_this_call_had_anything_to_do(run: Path) -> None:
    task = RunTask(
        row="sat",
        seed=0,
        config=read_config(run),
        folder=run,
        checkpoints=("selected",),
        attacks=Attacks(suite="quick", limit=20),
    )
    assert not make_run(task).was_finished  # it was trained, and is attacked now
    assert make_run(task).was_finished
    assert not make_run(replace(task, checkpoints=("selected", "last"))).was_finished
    (run / "model.json").unlink()
    (run / "model.safetensors").unlink()
    assert not make_run(task).was_finished
