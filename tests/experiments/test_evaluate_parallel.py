"""Evaluations in two processes, and in parts on several machines."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands_apart import Forked, all_gone, children_of, forked, wait_until
from experiments.commands import contents, done, lrat, one_thread
from experiments.evaluations import (
    assert_same_verdicts,
    folder_of,
    has_two_processors,
    parts_in,
    short_suite,
)
from experiments.own import arrays, write_model
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation import EvaluationResult
from lrat.evaluation.statistics import wilson
from lrat.evaluation.storage.store import read_part, write_part
from lrat.evaluation.time_limit import NothingFinishedError
from lrat.experiments.evaluate import evaluate_subject
from lrat.experiments.evaluate_parallel import evaluate_in_processes
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.hardware import processors
from lrat.runs.sources import ModelSource

two = pytest.mark.skipif(not has_two_processors(), reason="needs two processors")


def only_evaluation(run: Path) -> Path:
    (folder,) = (run / "evaluations").iterdir()
    return folder


def copied(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(name)))


def compare_batches_and_processes(run: Path, suite: str | Path, acceleration: str, images: int):
    """Batch sizes 1, 7, 64 and two processes: the same verdicts, the same table."""
    command = ("--suite", suite, "--limit", images, "--acceleration", acceleration)
    command += ("--no-masking",)
    others = {size: copied(run, f"of-{size}") for size in (1, 7, 64)}
    spread = done("evaluate", run, *command, "--batch-size", 64, "--devices", 2)
    assert spread.splitlines()[-1] == f"evidence in {only_evaluation(run)}"
    assert len(list((only_evaluation(run) / "outcomes").glob("natural-*"))) >= 2
    for size, other in others.items():
        out = done("evaluate", other, *command, "--batch-size", size)
        assert accuracies(out) == accuracies(spread)
        assert_same_verdicts(only_evaluation(run), only_evaluation(other))
    again = done("evaluate", run, *command, "--batch-size", 64)
    assert again == spread, "nothing is left to do for one process"


@two
@pytest.mark.parametrize("acceleration", [pytest.param("off", marks=pytest.mark.soak), "auto"])
def test_verdicts_depend_on_neither_processes_nor_batches(run: Path, acceleration: str) -> None:
    compare_batches_and_processes(run, short_suite(run.parent), acceleration, images=16)
    identity = read_json(only_evaluation(run) / "identity.json")
    wanted = {"off": "off", "auto": "float32, BatchNorm folded"}
    assert identity["acceleration"] == wanted[acceleration]


@two
@pytest.mark.soak
@pytest.mark.parametrize("acceleration", ["off", "auto"])
def test_verdicts_of_the_whole_suite(
    run: Path, acceleration: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_batches_and_processes(run, "paper", acceleration, images=100)
    with capsys.disabled():
        told = "batch sizes 1, 7, 64 and two processes: identical verdicts"
        sys.stdout.write(f"\npaper, 100 images, acceleration {acceleration}: {told}\n")


@two
def test_a_killed_process_ends_the_others_and_the_next_call_continues(
    run: Path, trained: Path
) -> None:
    """Also with another number of processes."""
    other = copied(trained, "other")
    command = ("--suite", short_suite(run.parent), "--limit", 96, "--batch-size", 4)
    folder = folder_of(run, short_suite(run.parent), 96)
    with forked("evaluate", run, *command, "--devices", 2) as running:
        wait_for_parts(folder, running, 4)
        children = children_of(running.pid)
        assert len(children) == 2
        os.kill(children[1], signal.SIGKILL)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 2
    lines = [line for line in told.splitlines() if line.startswith("lrat: ")]
    assert len(lines) == 1
    assert lines[0].endswith(
        "of 2 ended by SIGKILL: out of memory, or killed? What is done is kept, the same command "
        "continues"
    )
    assert all_gone(children)
    assert not (folder / "summary.json").exists()
    whole = contents(folder / "outcomes")
    before = {name: content for name, content in whole.items() if not name.startswith(".")}
    done("evaluate", run, *command)
    assert before.items() <= contents(folder / "outcomes").items(), "what was done is kept"
    done("evaluate", other, *command)
    assert_same_verdicts(folder, only_evaluation(other))


@two
def test_processes_do_not_outlive_the_one_that_started_them(run: Path) -> None:
    folder = folder_of(run, short_suite(run.parent), 96)
    command = ("--suite", short_suite(run.parent), "--limit", 96, "--batch-size", 4)
    with forked("evaluate", run, *command, "--devices", 2) as running:
        wait_for_parts(folder, running, 4)
        children = children_of(running.pid)
        running.kill()
        running.communicate()
        wait_until(lambda: all_gone(children))
    assert not (folder / "summary.json").exists()


@two
def test_under_torchrun_the_processes_are_those_that_are_there(run: Path) -> None:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    command = ("-m", "lrat", "evaluate", str(run), "--limit", "30", "--devices", "2")
    ended = subprocess.run(
        [*launcher, *command], env=one_thread(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    folder = only_evaluation(run)
    assert ended.stdout.count("evidence in") == 1, "the first process alone prints"
    assert len(list((folder / "outcomes").glob("natural-*"))) == 2, "each did its part"
    assert len(EvaluationResult.from_folder(folder).index) == 30


@two
def test_a_model_of_ones_own_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    write_model("model.py")
    np.savez("test.npz", **arrays(9))
    command = ("--model-file", "model.py:make", "--data", "npz:test.npz", "--threat", "linf:0.1")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    spread = done("evaluate", *command, "--devices", 2)
    assert "n 9, seed 0" in spread
    assert "evidence" not in spread
    assert sorted(path.name for path in tmp_path.rglob("*") if "__pyc" not in str(path)) == before
    assert (
        spread.splitlines()[2].split()[:2] == done("evaluate", *command).splitlines()[2].split()[:2]
    )


@two
def test_an_error_in_a_process_is_the_error_of_the_call(run: Path) -> None:
    """Here the first one's: the folder belongs to another evaluation."""
    done("evaluate", run, "--limit", "20")
    identity = only_evaluation(run) / "identity.json"
    write_json(identity, read_json(identity) | {"seed": 7})
    request = EvaluationRequest(limit=20, devices=2)
    port = os.environ.get("MASTER_PORT")
    with pytest.raises(RunFolderError, match=r"another evaluation \(seed: 7 there, 0 here\)"):
        evaluate_in_processes(ModelSource(run=run), request)
    assert os.environ.get("MASTER_PORT") == port


@two
def test_a_block_that_was_stopped_counts_with_none_of_its_images(run: Path) -> None:
    """Those that an attack fooled are done first: counting them alone would be a wrong number."""
    source = ModelSource(run=run)
    request = EvaluationRequest(limit=50, batch_size=10, part=(1, 1), seconds=1000)
    folder, whole = evaluate_subject(source.load(), request)
    assert folder is not None
    written = sorted(
        (folder / "outcomes").glob("cw-20-*"), key=lambda path: path.stat().st_mtime_ns
    )
    blocks = [read_part(path) for path in written]
    assert [len(rows) for rows in blocks] == [10] * 5
    for path in written[2:]:
        path.unlink()
    write_part(folder, blocks[2].select(np.arange(5)))
    request = replace(request, part=None, devices=1, seconds=1e-9)
    stopped = evaluate_in_processes(source, request)
    assert stopped is not None
    expected = sorted([*blocks[0].index, *blocks[1].index])
    assert stopped[1].index.tolist() == expected
    right = whole.robust(["natural"])[np.isin(whole.index, expected)]
    assert stopped[1].accuracy["natural"] == wilson(int(right.sum()), 20)
    assert "with 20 of 50 images" in stopped[1].notes[-1]
    for path in (folder / "outcomes").iterdir():
        path.unlink()
    with pytest.raises(NothingFinishedError, match="no image was finished within 1e-09 seconds"):
        evaluate_in_processes(source, request)


@two
def test_a_process_without_a_finished_block_does_not_end_the_others(run: Path) -> None:
    source = ModelSource(run=run)
    request = EvaluationRequest(limit=40, batch_size=10, part=(1, 2), seconds=1000)
    _, first = evaluate_subject(source.load(), request)
    spread = replace(request, part=None, devices=2, seconds=1e-9)
    found = evaluate_in_processes(source, spread)
    assert found is not None
    assert found[1].index.tolist() == first.index.tolist()
    (note,) = [note for note in found[1].notes if note.startswith("stopped after 1e-09 s")]
    assert " of 40 images" in note


def test_parts_of_two_machines_are_merged(run: Path, trained: Path, tmp_path: Path) -> None:
    machines = [copied(trained, "first"), copied(trained, "second")]
    for number, machine in enumerate(machines, start=1):
        out = done("evaluate", machine, "--limit", 31, "--part", f"{number}/2")
        assert f"note: part {number} of 2: when the others are done too" in out
    folders = [only_evaluation(machine) for machine in machines]
    some = done("merge", folders[0], "--out", tmp_path / "some")
    assert some.splitlines() == [
        "16 of 31 images are done with every attack; missing are images of natural 15, pgd-20 15, "
        "cw-20 15: evaluate the other parts and merge them too",
        f"evidence in {tmp_path / 'some'}",
    ]
    out = done("merge", *folders, "--out", tmp_path / "all")
    whole = done("evaluate", run, "--limit", 31)
    assert accuracies(out) == accuracies(whole)
    assert_same_verdicts(tmp_path / "all", only_evaluation(run))


def test_a_merge_of_two_evaluations_is_refused(run: Path, tmp_path: Path) -> None:
    done("evaluate", run, "--limit", "20")
    done("evaluate", run, "--limit", "20", "--seed", "3")
    complaint = lrat("merge", *(run / "evaluations").iterdir(), "--out", tmp_path / "out").complaint
    assert "are different evaluations (seed: " in complaint
    assert not (tmp_path / "out").exists()


MANY = processors() + 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--devices", 0), "devices=0: must be a whole number >= 1"),
        (("--devices", -1), "devices=-1: must be a whole number >= 1"),
        (("--devices", MANY), f"choose from 1 to {MANY - 1}, the processors that are here"),
        (("--devices", 1, "--part", "1/2"), "part and devices both divide the images: "),
        (("--nodes", 2), "nodes 2: at least one, and say with devices how many"),
        (("--devices", 1, "--nodes", 0), "nodes=0: must be a whole number >= 1"),
        (("--devices", 1, "--nodes", 2), "--nodes 2: start it with torchrun or srun, or set "),
        (("--devices", 1, "--noise", "sequential"), "sequential noise depends on all images"),
        (("--devices", "two"), "Invalid value for '--devices'"),
    ],
)
def test_what_cannot_be_spread_is_one_line(
    options: tuple[object, ...], cause: str, trained: Path
) -> None:
    before = contents(trained)
    assert cause in lrat("evaluate", trained, "--device", "cpu", *options).complaint
    assert contents(trained) == before


def test_processes_of_torchrun_that_would_all_do_the_same_are_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "torchrun started 4 processes" in lrat("evaluate", trained).complaint


def test_an_open_model_is_not_spread(trained: Path) -> None:
    request = EvaluationRequest(devices=1)
    with pytest.raises(ConfigurationError, match="evaluate_in_processes takes its source"):
        evaluate_subject(ModelSource(run=trained).load(), request)
    with pytest.raises(ConfigurationError, match="say in how many processes"):
        evaluate_in_processes(ModelSource(run=trained), EvaluationRequest())


@pytest.mark.parametrize("options", [(), ("--devices", 1)])
def test_a_folder_that_cannot_be_written_is_one_line(
    run: Path, options: tuple[object, ...]
) -> None:
    """Permissions do not hold the superuser back; a file in the way does."""
    (run / "evaluations").write_text("in the way")
    complaint = lrat("evaluate", run, "--limit", "20", *options).complaint
    assert "cannot " in complaint
    assert "evaluations" in complaint


def accuracies(out: str) -> list[list[str]]:
    """Name and accuracy of each row of the table, without the evidence's place."""
    return [line.split()[:2] for line in out.splitlines()[:-1]]


def wait_for_parts(folder: Path, running: Forked, count: int) -> None:
    while parts_in(folder) < count:
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
