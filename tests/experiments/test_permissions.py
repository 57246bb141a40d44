"""Folders and files of others, without rights: one line, and in a report the other runs."""

import ctypes
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import lrat
from lrat.attacks import PGD
from lrat.errors import LratError, SettingError
from lrat.evaluation.merge import complete
from lrat.evaluation.suites import Member
from lrat.runs.folder import has_begun, read_config
from lrat.threat import Linf
from lrat.training.checkpoint import Checkpoints
from lrat.training.metrics import MetricsFile
from reporting.report.reported import make_evaluation, make_run, report

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or (os.geteuid() == 0 and sys.platform != "linux"),
    reason="root may read everything, which only Linux lets it give up for a while",
)
_READS_EVERYTHING = (1 << 1) | (1 << 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""


@contextmanager
def without_rights() -> Iterator[None]:
    """Inside, root too is held to the modes of files."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the low bits first
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~_READS_EVERYTHING
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """Two evaluated runs."""
    folder = tmp_path / "runs"
    for name in ("first", "second"):
        run = make_run(folder / name, method="sat" if name == "first" else "trades")
        make_evaluation(run, robust=50 if name == "first" else 60, gallery=2)
        for part in ("checkpoints", "curves", "analysis", "weights"):
            (run / part).mkdir()
    yield folder
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700)


LOCKED = {
    "the run": "first",
    "its configuration": "first/config.yaml",
    "its metrics": "first/metrics.jsonl",
    "its model": "first/model.json",
    "its weights": "first/model.safetensors",
    "its evaluations": "first/evaluations",
    "an evaluation": "first/evaluations/*",
    "an identity": "first/evaluations/*/identity.json",
    "a summary": "first/evaluations/*/summary.json",
    "outcomes": "first/evaluations/*/outcomes",
    "a part": "first/evaluations/*/outcomes/*",
    "checkpoints": "first/checkpoints",
    "curves": "first/curves",
    "an analysis": "first/analysis",
    "recorded weights": "first/weights",
    "a gallery": "first/evaluations/*/gallery",
}


@pytest.mark.parametrize("mode", [0o000, 0o400])
@pytest.mark.parametrize("locked", LOCKED.values(), ids=LOCKED)
def test_what_may_not_be_read_is_told_and_the_other_run_is_shown(
    locked: str, mode: int, runs: Path
) -> None:
    places = list(runs.glob(locked))
    assert places
    for place in places:
        place.chmod(mode)
    with without_rights():
        record = report(runs / "first", runs / "second")
        assert "second" in [run.name for run in record.runs]
        told = [*record.problems, *(text for run in record.runs for text in run.problems)]
        if mode:
            return
        assert any("ermission denied" in text for text in told), told
        for command in (("compare", runs / "first", runs / "second"), ("report", runs / "first")):
            answer = lrat(*command, *(["--out", runs / "r.html"] if "report" in command else []))
            assert answer.status in {0, 2}, answer.err
            assert answer.err.count("\n") <= 1
            assert "Traceback" not in answer.err
        if locked == "first/evaluations":
            assert "no finished evaluation" not in lrat("compare", *runs.glob("*")).complaint


@pytest.mark.parametrize(
    "command",
    [
        ("train", "sat", "--out", "{}/locked/run"),
        ("train", "sat", "--config", "{}/locked/c.yaml"),
        ("train", "sat", "--data", "npz:{}/locked/x.npz", "--threat", "linf:0.1"),
        ("evaluate", "{}/locked/run"),
        ("evaluate", "--suite", "{}/locked/s.yaml", "{}/first"),
        ("compare", "{}/locked/run", "{}/second"),
        ("report", "{}/locked/run"),
        ("report", "{}/first", "--out", "{}/locked/r.html"),
        ("why", "{}/locked/run"),
        ("curve", "{}/locked/run"),
        ("analyse", "{}/locked/run"),
        ("merge", "{}/locked/a", "{}/locked/b", "--out", "{}/x"),
        ("evaluate", "--model-file", "{}/locked/m.py:f", "--data", "digits"),
    ],
    ids=" ".join,
)
def test_a_path_below_a_folder_without_rights_is_one_line(
    command: tuple[str, ...], runs: Path
) -> None:
    locked = runs / "locked"
    locked.mkdir()
    locked.chmod(0o000)
    with without_rights():
        assert lrat(*(word.format(runs) for word in command)).complaint


@pytest.mark.parametrize(
    "command",
    [
        ("train", "sat", "--data", "npz:{}/locked.npz", "--threat", "linf:0.1", "--out", "{}/x"),
        ("train", "--config", "{}/locked.yaml", "--out", "{}/x"),
        (
            *("evaluate", "--model-file", "{}/model.py:f", "--suite", "{}/locked.yaml"),
            *("--data", "digits", "--limit", "1"),
        ),
        ("evaluate", "--model-file", "{}/locked.py:f", "--data", "digits", "--limit", "1"),
        (
            *("evaluate", "--model-file", "{}/model.py:f", "--weights", "{}/locked.safetensors"),
            *("--data", "digits", "--limit", "1"),
        ),
    ],
    ids=" ".join,
)
def test_a_file_without_rights_is_one_line(command: tuple[str, ...], runs: Path) -> None:
    for ending in ("npz", "yaml", "py", "safetensors"):
        (runs / f"locked.{ending}").write_text("f = None")
        (runs / f"locked.{ending}").chmod(0o000)
    (runs / "model.py").write_text(
        "import torch\ndef f():\n    return torch.nn.Sequential(torch.nn.Flatten())\n"
    )
    with without_rights():
        assert "ermission denied" in lrat(*(word.format(runs) for word in command)).complaint


def test_what_a_run_continues_from_is_not_taken_as_missing(runs: Path) -> None:
    """Nothing begins anew because nobody may look at what is there."""
    checkpoints, metrics = runs / "first" / "checkpoints", runs / "first" / "metrics.jsonl"
    config = read_config(runs / "first")
    Checkpoints(checkpoints, identity=config.digest()).save({}, epoch=1)
    metrics.chmod(0o000)
    for path, mode in ((next(checkpoints.glob("*.pt")), 0o000), (checkpoints, 0o300)):
        path.chmod(mode)
        with without_rights():
            with pytest.raises((LratError, OSError)):
                Checkpoints(checkpoints, identity=config.digest()).latest()
            with pytest.raises(LratError, match="ermission denied"):
                MetricsFile(metrics).lines({"lines": 1, "sha256": ""})
    (runs / "first" / "model.safetensors").unlink()
    with without_rights(), pytest.raises(OSError, match="ermission denied"):
        has_begun(runs / "first")


def test_a_finished_evaluation_is_read_where_nothing_may_be_written(runs: Path) -> None:
    (evaluation,) = (runs / "first" / "evaluations").iterdir()
    for path in [*evaluation.rglob("*"), evaluation]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    with without_rights():
        assert complete(evaluation).is_finished
        assert lrat("compare", runs / "first", runs / "second").status == 0
        assert lrat("merge", evaluation, "--out", runs / "copy").status == 0
        assert "cannot write" in lrat("merge", evaluation, "--out", evaluation / "below").complaint


@pytest.mark.parametrize("call", ["open", "read", "listdir", "stat"])
def test_a_disk_that_fails_costs_the_report_one_run(
    call: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = os.fspath(runs / "first")
    real_fdopen = os.fdopen

    def fails(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{broken}/")

    def failing(real: Any) -> Any:
        def function(path: Any, *args: Any, **kwargs: Any) -> Any:
            if fails(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return real(path, *args, **kwargs)

        return function

    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def unread(descriptor: int, *args: Any, **kwargs: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        real = real_fdopen(descriptor, *args, **kwargs)
        if not fails(name):
            return real
        real.close()
        return Unread()

    if call == "read":
        monkeypatch.setattr(os, "fdopen", unread)
    else:
        monkeypatch.setattr(os, call, failing(getattr(os, call)))
    record = report(runs / "first", runs / "second")
    assert "second" in [run.name for run in record.runs]
    told = [*record.problems, *(text for run in record.runs for text in run.problems)]
    assert any(os.strerror(errno.EIO) in text for text in told), told
    for command in (("compare", runs / "first", runs / "second"), ("merge", runs / "first")):
        answer = lrat(*command, *(["--out", runs / "x"] if "merge" in command else []))
        assert answer.complaint


@pytest.mark.skipif(
    not os.path.isdir("/proc/self"), reason="needs a system without folders to make"
)
def test_a_place_where_no_folder_can_be_made_is_one_line() -> None:
    assert "/proc/x" in lrat("train", "sat", "--out", "/proc/x").complaint


def test_a_name_that_no_file_can_have_is_refused_before_the_work() -> None:
    attack = PGD(threat=Linf(epsilon=0.1), steps=1, step_size=0.1)
    assert Member(name="a" * 150, attack=attack)
    with pytest.raises(SettingError, match="at most 150"):
        Member(name="a" * 300, attack=attack)
