"""Break the package on purpose and see that its tests notice.

A mutation replaces one piece of source text in a copy of the package; the named tests then run on
the copy in a process of their own and must fail (see server.py).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "lrat"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """``old`` (which must occur exactly once in ``file``) becomes ``new``; ``tests`` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def copy_package(folder: Path) -> Path:
    """The package's source in ``folder``; returns its path there."""
    copied = folder / "lrat"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied


def apply(mutation: Mutation, package: Path) -> None:
    """Mutate the copy. Raises ``AssertionError`` if the text is not there exactly once."""
    file = package / mutation.file
    source = file.read_text()
    found = source.count(mutation.old)
    assert found == 1, f"{mutation.name}: the text occurs {found} times in {mutation.file}"
    file.write_text(source.replace(mutation.old, mutation.new))


@dataclass(frozen=True)
class Outcome:
    """pytest's exit status and what it printed."""

    status: int
    output: str


class Runner:
    """Runs tests on copies of the package; a context manager around its one process.

    Without run-time shape checks: a mutation should be noticed by its numbers.
    """

    def __enter__(self) -> "Runner":
        inherited = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            cwd=ROOT,
            env=inherited | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._server.communicate()

    def __call__(self, folder: Path, tests: Iterable[str]) -> Outcome:
        """Run ``tests`` (paths below tests/) on the copy in ``folder`` up to the first failure."""
        log = folder / "output.txt"
        options = ["-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        paths = [str(ROOT / "tests" / name) for name in tests]
        arguments = ["-o", "addopts=", *options, *paths]
        request = {"folder": str(folder), "arguments": arguments, "log": str(log)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return Outcome(status, log.read_text())
