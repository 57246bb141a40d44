"""A reproduction in a process group of its own, stopped in every way there is."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from commands_apart import Forked, forked, wait_until

pytestmark = [
    pytest.mark.xdist_group("reproduce"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
]
EPOCHS, ROWS = 8, ("sat", "gairat", "lsat-cw", "lrat-cw")
COMMAND = (
    *("reproduce", "table1", "--rows", ",".join(ROWS), "--seeds", "1", "--suite", "quick"),
    *("--set", f"training.epochs={EPOCHS}", "--set", "model.width=4", "--set", "attack.steps=2"),
    *("--set", "data.train_limit=150", "--set", "training.monitor.limit=20", "--workers", "2"),
)


def alive(session: int) -> set[int]:
    """The processes of a session that have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.add(int(path.parent.name))
    return found


def folder(out: Path, row: str) -> Path:
    return out / "runs" / f"{row}-seed-0"


def under_way(out: Path) -> set[str]:
    """Rows that have begun and not ended."""
    return {
        row
        for row in ROWS
        if folder(out, row).exists() and not (folder(out, row) / "model.safetensors").exists()
    }


@contextmanager
def reproduction(out: Path) -> Iterator[Forked]:
    """One whose two workers both have ended an epoch."""
    with forked(*COMMAND, "--out", out) as running:
        wait_until(
            lambda: (
                running.poll() is not None
                or sum(path.stat().st_size > 0 for path in out.glob("runs/*/metrics.jsonl")) >= 2
            )
        )
        assert running.poll() is None, running.communicate()
        yield running


def assert_saved_and_gone(out: Path, running: Forked) -> None:
    wait_until(lambda: not alive(running.pid))
    assert under_way(out), "it was stopped in the middle"
    assert len(list((out / "runs").iterdir())) < len(ROWS), "no further row was begun"
    for row in under_way(out):
        saved = sorted(path.stem for path in (folder(out, row) / "checkpoints").glob("*.json"))
        assert saved, row
        assert not (folder(out, row) / ".lock").exists()
        lines = (folder(out, row) / "metrics.jsonl").read_bytes().count(b"\n")
        assert any("-step-" in stem for stem in saved) or f"epoch-{lines:03d}" in saved


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGINT, os.killpg),  # Ctrl-C
        pytest.param(signal.SIGTERM, os.killpg, marks=pytest.mark.soak),  # a job scheduler
        pytest.param(signal.SIGHUP, os.killpg, marks=pytest.mark.soak),  # the terminal closes
    ],
)
def test_stopped_it_saves_all_rows_and_begins_no_other(
    number: signal.Signals, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with reproduction(out) as running:
        send(running.pid, number)
        said, err = running.communicate(timeout=200)
        assert running.returncode == 130, err
        assert_saved_and_gone(out, running)
    assert f"\n{number.name}: stopping when the rows under way have saved themselves" in said
    assert err == (
        f"lrat: stopped by {number.name}; what was trained is saved in {out}: "
        "the same command continues\n"
    )


def test_its_workers_do_not_outlive_it_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with reproduction(out) as running:
        running.kill()
        assert running.wait() == -signal.SIGKILL
        assert_saved_and_gone(out, running)
    saved = {
        row: (folder(out, row) / "metrics.jsonl").read_text().splitlines() for row in under_way(out)
    }
    with forked(*COMMAND, "--out", out) as again:
        said, err = again.communicate(timeout=400)
    assert again.returncode == 0, err
    assert err == ""
    assert f"; {len(ROWS)} of {len(ROWS)} runs done\n" in said
    for row, lines in saved.items():
        whole = (folder(out, row) / "metrics.jsonl").read_text().splitlines()
        assert len(whole) == EPOCHS
        assert whole[: len(lines)] == lines, "with their times: nothing was trained twice"
    table = json.loads((out / "table1.json").read_text())
    assert (table["epochs"], table["other epoch"]["epochs"]) == ([8], [5])
    assert "## From epoch 5 to epoch 8" in (out / "table1.md").read_text()
