"""Folders and files of others, without rights: one line, and in a report the other runs."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.commands import lrat
from experiments.reported import make_evaluation, make_run, report
from lrat.attacks import PGD
from lrat.errors import SettingError
from lrat.evaluation.suites import Member
from lrat.threat import Linf

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
        make_evaluation(run, robust=50 if name == "first" else 60)
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
        if mode == 0:
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
