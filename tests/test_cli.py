"""The commands as a user types them; how each behaves in detail is under ``experiments/``."""

import os
import shlex
from pathlib import Path

import pytest

from experiments.commands import TINY, assert_same_result, done, lrat, process, python
from lrat import __version__
from lrat.config.catalogue import ALIASES, CATALOGUES
from lrat.errors import LratError

COMMANDS = ("train", "evaluate", "compare", "curve", "why", "analyse", "report", "merge", "demo")

LIGHT = """
import contextlib, io, sys
from lrat.cli import main
for arguments in {arguments!r}:
    sys.argv = ["lrat", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            assert end.code == 0, (arguments, end.code)
    assert out.getvalue().strip(), arguments
heavy = {{"torch", "numpy", "scipy", "sklearn", "torchvision", "matplotlib", "lightning_fabric"}}
print(sorted(heavy & set(sys.modules)))
"""


def test_help_version_and_lists_load_neither_torch_nor_numpy() -> None:
    arguments = [["--help"], [], ["--version"], *(["list", what] for what in CATALOGUES)]
    arguments += [["list", "methods", "lrat-saa+cw"]]
    arguments += [[command, "--help"] for command in COMMANDS]
    assert python(LIGHT.format(arguments=arguments)) == "[]\n"


def test_help_names_every_command() -> None:
    text = lrat("--help").out
    for command in (*COMMANDS, "list"):
        assert f" {command} " in text


def test_without_arguments_it_shows_the_help() -> None:
    assert lrat() == lrat("--help")


def test_version() -> None:
    assert lrat("--version").out == f"lrat {__version__}\n"


@pytest.mark.parametrize("what", CATALOGUES)
def test_lists_give_each_name_a_line(what: str) -> None:
    lines = lrat("list", what).out.splitlines()
    aliases = ALIASES if what == "methods" else {}
    assert [line.split()[0] for line in lines] == [*CATALOGUES[what], *aliases]
    assert all(len(line.split()) > 2 for line in lines), "every name is explained"


def test_aliases_are_listed_with_what_they_stand_for() -> None:
    lines = lrat("list", "methods").out.splitlines()
    assert "lsat-pgd     the same as sat" in lines
    assert "saa+cw       the same as lrat-saa+cw" in lines


@pytest.mark.parametrize(
    ("arguments", "cause", "cure"),
    [
        (("trian",), "No such command 'trian'", "`lrat --help`"),
        (("train", "sat", "--epoch", "3"), "No such option: --epoch", "`lrat train --help`"),
        (("train", "sat", "--epochs", "few"), "'--epochs'", "`lrat train --help`"),
        (("train", "sat", "--epochs", "0"), "'--epochs'", "`lrat train --help`"),
        (("train", "sat", "--seed", "-1"), "'--seed'", "`lrat train --help`"),
        (("train", "sat", "gairat"), "unexpected extra argument", "`lrat train --help`"),
        (("evaluate", "run", "--limit", "0"), "'--limit'", "`lrat evaluate --help`"),
        (("compare",), "'runs'", "`lrat compare --help`"),
        (("demo", "--workers", "0"), "'--workers'", "`lrat demo --help`"),
        (("list",), "'what'", "`lrat list --help`"),
        (("list", "method"), "unknown list 'method': did you mean 'methods'", "Known: attacks"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], cause: str, cure: str) -> None:
    complaint = lrat(*arguments).complaint
    assert cause in complaint
    assert cure in complaint


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not on this system")
def test_the_demo_has_as_many_workers_as_it_may_use_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_demo(out: Path, *, workers: int, **others: object) -> None:
        raise LratError(f"{workers} workers")

    monkeypatch.setattr("lrat.reproduce.demo.run_demo", run_demo)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert lrat("demo", "--out", tmp_path).complaint == "3 workers"
    assert lrat("demo", "--out", tmp_path, "--workers", 2).complaint == "2 workers"


def test_a_whole_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and evaluate in other processes, repeat both in this one, compare."""
    monkeypatch.chdir(tmp_path)
    train = ("train", "lrat-saa+cw", *TINY, "--set", "data.train_limit=200", "--epochs", "2")
    first = process(*train, cwd=tmp_path)
    assert first.status == 0, first.err
    assert first.err == ""
    run = tmp_path / "runs" / "lrat-saa+cw-digits-0"
    lines = first.out.splitlines()
    assert lines[-1] == "runs/lrat-saa+cw-digits-0"
    assert shlex.split((run / "command.txt").read_text(), comments=True) == ["lrat", *train]
    assert lines[0].startswith("attacks see the model in float32, BatchNorm folded (3 of 3)")
    finished = [line for line in lines if line.startswith("epoch ") and " loss " in line]
    assert [line.split()[1] for line in finished] == ["1/2", "2/2"]

    done("train", "--config", run / "config.yaml", "--out", "again")
    assert_same_result(run, tmp_path / "again")

    shown = process("evaluate", run, "--limit", 20, cwd=tmp_path)
    assert shown.status == 0, shown.err
    (evaluation,) = (run / "evaluations").iterdir()
    typed = ["lrat", "evaluate", str(run), "--limit", "20"]
    assert shlex.split((evaluation / "command.txt").read_text(), comments=True) == typed
    assert shown.out.splitlines()[0].split()[0] == "attack"
    assert shown.out.splitlines()[-1] == f"evidence in {evaluation}"
    again = done("evaluate", "again", "--limit", 20)
    assert again.splitlines()[:-1] == shown.out.splitlines()[:-1]

    assert "do not differ significantly at n = 20" in done("compare", run, "again")


def test_a_wrong_name_in_a_process_of_its_own(tmp_path: Path) -> None:
    answer = process("train", "satt", cwd=tmp_path)
    assert answer.out == ""
    assert "unknown method 'satt': did you mean 'sat'" in answer.complaint
    assert list(tmp_path.iterdir()) == []
