"""Setting up where something is missing, with stand-ins for Python, apt and sudo."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("make", "bash", "sh", "env", "dirname", "mkdir", "touch", "rm", "test", "cat")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="needs a POSIX shell and make"
)
OLD = "exit 1"
WITHOUT_PIP = """
case "$1" in
  -m) mkdir -p "$3/bin"; touch "$3/bin/python"; echo "ensurepip is not available"; exit 1;;
esac
"""
GOOD = """
case "$2" in
  venv) mkdir -p "$3/bin"; touch "$3/bin/pip"; rm -f "$3/bin/python"; cp "$0" "$3/bin/python";;
  pip) echo "$*" >> pip.log;;
esac
"""


class Machine:
    """A folder with a copy of the project's set-up, and the commands that there are."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.project / ".ci").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
            shutil.copy(ROOT / name, self.project / name)
        for tool in (*TOOLS, "cp"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def add(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        kept.pop("PYTHON", None)
        kept.pop("MFLAGS", None)
        return subprocess.run(
            command,
            cwd=self.project,
            env={**kept, "PATH": str(self.bin)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def complaint(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode != 0
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("lrat: ")]
    return line


def test_an_environment_that_cannot_be_made_leaves_nothing(machine: Machine) -> None:
    machine.add("python3", WITHOUT_PIP)
    line = complaint(machine.call("make", "test"))
    assert "'python3' cannot make a virtual environment with pip" in line
    assert "install python3-venv" in line
    assert "`make test PYTHON=" in line
    assert not (machine.project / ".venv").exists()


def test_a_folder_that_was_there_before_is_not_removed(machine: Machine) -> None:
    machine.add("python3", WITHOUT_PIP)
    (machine.project / "mine").mkdir()
    (machine.project / "mine" / "thesis").touch()
    complaint(machine.call("make", "VENV=mine"))
    assert (machine.project / "mine" / "thesis").exists()


def test_half_an_environment_is_made_whole(machine: Machine) -> None:
    (machine.project / ".venv" / "bin").mkdir(parents=True)
    (machine.project / ".venv" / "bin" / "python").symlink_to("/nonexistent")
    machine.add("python3", GOOD)
    answer = machine.call("make", ".venv/.installed")
    assert answer.returncode == 0, answer.stderr
    assert "install" in (machine.project / "pip.log").read_text()


@pytest.mark.parametrize("script", [OLD, None])
def test_a_python_that_is_old_or_missing_is_named(machine: Machine, script: str | None) -> None:
    if script is not None:
        machine.add("python3", script)
    line = complaint(machine.call("make"))
    assert line.startswith("lrat: 'python3' is no Python >= 3.11: name one, as `make demo PYTHON=")


def ci(machine: Machine, *, uid: int, python: str | None, installs: str = "") -> str:
    """``.ci/run`` for a user with a browser; what it called lies in ``calls``."""
    machine.add("chromium", "")
    for name in ("make", "apt-get"):
        machine.add(name, f'echo "{name} $*" >> calls; {installs if name == "apt-get" else ""}')
    machine.add("id", f"echo {uid}")
    if python is not None:
        machine.add("python3", python)
    return (machine.project / "calls").as_posix()


def called(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


CHECKS = ["make check PYTHON=python3", "make test PYTHON=python3"]
INSTALLS = ["apt-get update -q", "apt-get install -y -q make python3 python3-venv python3-pip"]


def test_ci_installs_nothing_where_nothing_is_missing(machine: Machine) -> None:
    calls = ci(machine, uid=1000, python=GOOD)
    assert machine.call("bash", ".ci/run").returncode == 0
    assert called(calls) == CHECKS


@pytest.mark.parametrize("uid", [0, 1000])
def test_ci_installs_as_root_or_through_sudo(machine: Machine, uid: int) -> None:
    new = machine.bin / "python3"
    installs = f"echo '#!/bin/sh' > {new}; chmod 755 {new}"
    (machine.bin / "chmod").symlink_to(str(shutil.which("chmod")))
    calls = ci(machine, uid=uid, python=OLD, installs=installs)
    if uid:
        machine.add("sudo", 'echo "sudo" >> calls; exec "$@"')
    answer = machine.call("bash", ".ci/run")
    assert answer.returncode == 0, answer.stderr
    assert [line for line in called(calls) if line != "sudo"] == INSTALLS + CHECKS
    assert called(calls).count("sudo") == (2 if uid else 0)


def test_ci_without_root_and_sudo_says_so(machine: Machine) -> None:
    calls = ci(machine, uid=1000, python=None)
    assert "takes root: run this as root, or install sudo" in complaint(
        machine.call("bash", ".ci/run")
    )
    assert called(calls) == []


def test_ci_refuses_a_python_that_stays_too_old(machine: Machine) -> None:
    calls = ci(machine, uid=0, python=OLD)
    assert "is no Python >= 3.11 with venv and pip" in complaint(machine.call("bash", ".ci/run"))
    assert called(calls) == INSTALLS


def test_ci_without_apt_says_what_is_needed(machine: Machine) -> None:
    ci(machine, uid=0, python=OLD)
    (machine.bin / "apt-get").unlink()
    assert "make and Python >= 3.11 with venv and pip are needed" in complaint(
        machine.call("bash", ".ci/run")
    )


BROWSER = ["apt-get update -q", "apt-get install -y -q chromium"]


def test_ci_installs_a_browser_where_none_is(machine: Machine) -> None:
    new = machine.bin / "chromium"
    calls = ci(machine, uid=0, python=GOOD, installs=f"touch {new}; chmod 755 {new}")
    (machine.bin / "chmod").symlink_to(str(shutil.which("chmod")))
    new.unlink()
    answer = machine.call("bash", ".ci/run")
    assert answer.returncode == 0, answer.stderr
    assert called(calls) == BROWSER + CHECKS
    assert answer.stderr == ""


@pytest.mark.parametrize("why", ["no root", "no apt", "not found"])
def test_ci_goes_on_without_a_browser_and_says_so(machine: Machine, why: str) -> None:
    calls = ci(machine, uid=1000 if why == "no root" else 0, python=GOOD, installs="exit 100")
    (machine.bin / "chromium").unlink()
    if why == "no apt":
        (machine.bin / "apt-get").unlink()
    answer = machine.call("bash", ".ci/run")
    assert answer.returncode == 0, answer.stderr
    assert called(calls) == (BROWSER[:1] if why == "not found" else []) + CHECKS
    assert answer.stderr == (
        "lrat: no chromium, and none could be installed: the tests in a browser will not run\n"
    )
