"""The commands of a block: read, made small, run in this process."""

import glob
import shlex
from collections.abc import Iterator
from itertools import chain

import typer

from experiments.commands import lrat
from lrat.cli.entry import app

SMALL = {
    "train": (
        *("--epochs", "1", "--set", "attack.steps=1", "--set", "attack.saa_steps=1"),
        *("--set", "data.train_limit=60", "--set", "training.batch_size=64"),
    ),
    "evaluate": ("--limit", "8"),
    "curve": ("--limit", "4", "--levels", "4"),
    "analyse": ("--limit", "12", "--points", "0"),
}
"""What is added to a command, where the last of two equal options counts."""
NARROW = ("--set", "model.width=4")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line, continued lines joined, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run(words: list[str]) -> str:
    """What the command prints, made small, stars expanded as a shell does it; it must succeed."""
    assert words[0] == "lrat", f"{shlex.join(words)}: only commands of lrat are run; mark the block"
    found = [sorted(glob.glob(word)) if "*" in word else [word] for word in words[1:]]
    answer = lrat(*chain.from_iterable(found), *added(words[1:]))
    assert answer.status == 0, f"{shlex.join(words)}: {answer.err}"
    return answer.out


def added(words: list[str]) -> tuple[str, ...]:
    """What makes this command small; nothing for a run that its own configuration continues."""
    if "--config" in words:
        return ()
    own_model = any(":" in word for word in words if not word.startswith(("linf:", "npz:")))
    small = SMALL.get(words[0], ())
    return small + (NARROW if words[0] == "train" and not own_model else ())


def parse(words: list[str]) -> None:
    """Fails where ``lrat`` knows no such command, option or number of arguments."""
    assert "lrat" in words, f"{shlex.join(words)}: no command of lrat to parse"
    name, *rest = words[words.index("lrat") + 1 :]
    known = vars(typer.main.get_command(app))["commands"]
    assert name in known, f"{shlex.join(words)}: there is no `lrat {name}`"
    known[name].make_context(name, rest)
