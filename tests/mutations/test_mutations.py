"""Every mutation of the catalogue is noticed by the tests that it names: a sixth of them here, the
others in `make soak`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mutations.catalogue import MUTATIONS
from mutations.harness import Mutation, Runner, apply, copy_package


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


def test_unbroken_copy_passes(run: Runner, tmp_path: Path) -> None:
    """Else a mutation could seem noticed because its tests fail anyway."""
    copy_package(tmp_path)
    found = run(tmp_path, dict.fromkeys(test for each in MUTATIONS for test in each.tests))
    assert found.status == pytest.ExitCode.OK, found.output


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.soak] if number % 6 else [])
        for number, each in enumerate(MUTATIONS)
    ],
)
def test_mutation_is_noticed(mutation: Mutation, run: Runner, tmp_path: Path) -> None:
    """By a failing test: an error of collection or an import of another copy does not count."""
    apply(mutation, copy_package(tmp_path))
    found = run(tmp_path, mutation.tests)
    assert found.status == pytest.ExitCode.TESTS_FAILED, found.output
