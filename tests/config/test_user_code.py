"""Users' files are known by the bytes that were executed."""

import hashlib
import os
import py_compile
from pathlib import Path

import pytest

from lrat.config.user_code import code_of, loss_named, model_from_file, own_attack
from lrat.errors import ConfigurationError

CHANGES_ITSELF = """
from pathlib import Path
from torch import nn

Path(__file__).write_text("raise RuntimeError('saved while it ran')")


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def loss(logits, labels):
    return logits[:, 0]


def attack(model, images, labels):
    return images
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CHANGES_ITSELF)
    return path


@pytest.mark.parametrize("name", ["make", "loss", "attack"])
def test_a_file_that_is_saved_while_it_runs_is_known_by_what_ran(file: Path, name: str) -> None:
    read = {
        "make": lambda place: code_of(model_from_file(place, seed=0)),
        "loss": lambda place: loss_named(place).code,  # type: ignore[attr-defined]
        "attack": lambda place: own_attack(place).code,  # type: ignore[attr-defined]
    }
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    digest = read[name](f"{file}:{name}")
    assert digest
    assert expected.startswith(digest)
    with pytest.raises(ConfigurationError, match="saved while it ran"):
        read[name](f"{file}:{name}")


def test_no_bytecode_of_an_older_file_is_run(tmp_path: Path) -> None:
    """Python takes a cached one for the file's where time and size are the same."""
    file = tmp_path / "mine.py"
    file.write_text("def loss(logits, labels):\n    return logits[:, 0]\n")
    py_compile.compile(str(file))
    before = file.stat()
    file.write_text("def loss(logits, labels):\n    return logits[:, 1]\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = loss_named(f"{file}:loss")
    assert found.loss.function.__code__.co_consts[-1] == 1  # type: ignore[attr-defined]


def test_the_encoding_and_the_error_s_place_are_the_file_s(tmp_path: Path) -> None:
    file = tmp_path / "latin.py"
    file.write_bytes("# -*- coding: latin-1 -*-\nraise ValueError('é')\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin\.py fails: .*é"):
        own_attack(f"{file}:attack")
    file.write_text("def broken(:\n")
    with pytest.raises(ConfigurationError, match=r"latin\.py fails: .*line 1"):
        own_attack(f"{file}:attack")
