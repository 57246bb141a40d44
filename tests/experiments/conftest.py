"""One small run that tests read, and must copy before they change it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.commands import TINY, done
from typechecking import without_checks_of_types  # noqa: F401

COMMAND = ("train", "sat", *TINY, "--epochs", "2", "--set", "training.record_weights=[2]")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``COMMAND``: SAT on digits, two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "sat"
    done(*COMMAND, "--out", folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of ``trained`` to evaluate in, to damage, to continue."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def own_randomness() -> Iterator[None]:
    """The global random state seeded for a test, and put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
