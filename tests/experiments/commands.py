"""The command line as tests use it: in this process where speed matters, else a real one."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lrat.cli import main
from lrat.config.settings import load_config, read_settings
from lrat.files.read import parse_object, read_json
from lrat.files.write import write_json
from lrat.training import EpochRecord
from lrat.training.metrics import TIMES

TINY = ("--set", "model.width=4", "--set", "attack.steps=3", "--set", "attack.saa_steps=3")
"""Settings that make any run small."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of an error, after checking that it is one."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert self.err.startswith("lrat: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n"), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("lrat: ").rstrip("\n")


def lrat(*arguments: object) -> Answer:
    """``lrat ARGUMENTS`` in this process; an exception that gets out fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["lrat", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            return Answer(status=int(end.code or 0), out=out.getvalue(), err=err.getvalue())
    raise AssertionError("main returned instead of exiting")


def done(*arguments: object) -> str:
    """What a command that must succeed prints."""
    answer = lrat(*arguments)
    assert answer.status == 0, answer.err
    # On a slow machine lines say how far the attacks are.
    others = [line for line in answer.err.splitlines() if not line.endswith(("robust", "left"))]
    assert others == []
    return answer.out


def process(*arguments: object, cwd: Path | None = None) -> Answer:
    """``python -m lrat ARGUMENTS`` as a process of its own with one thread."""
    ended = subprocess.run(
        [sys.executable, "-m", "lrat", *map(str, arguments)],
        env=one_thread(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Answer(status=ended.returncode, out=ended.stdout, err=ended.stderr)


def python(program: str) -> str:
    """What a program prints in a process of its own; its failure fails the test."""
    return script("-c", program)


def script(*arguments: object, quiet: bool = False) -> str:
    """What ``python ARGUMENTS`` prints; with ``quiet`` it may write nothing to stderr."""
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=one_thread(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not (quiet and ended.stderr), ended.stderr
    return ended.stdout


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what differs between two equal runs."""
    lines = [parse_object(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(set(line) == set(EpochRecord.__dataclass_fields__) for line in lines)
    return [{name: line[name] for name in line if name not in TIMES} for line in lines]


def give_weights(run: Path, other: Path) -> None:
    """Let ``run`` hold the selected weights of ``other``, as if it had been trained to them."""
    weights = (other / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    write_json(run / "model.json", {**read_json(run / "model.json"), "sha256": digest})


def give_setting(run: Path, old: str, new: str) -> None:
    """Change the text of ``config.yaml``, as if the run had been trained so."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(old, new))
    digest = load_config(read_settings(config)).digest()
    write_json(run / "model.json", {**read_json(run / "model.json"), "configuration": digest})


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same_result(run: Path, other: Path) -> None:
    """Bit-identical weights and metrics."""
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    one, two = (read_json(folder / "model.json") for folder in (run, other))
    # How a run is kept may differ, and so may the files that say it.
    kept = {"configuration", "configuration_file"}
    assert {name: one[name] for name in one.keys() - kept} == {
        name: two[name] for name in two.keys() - kept
    }
    assert records(run) == records(other)
