"""The small run of the commands' tests; without checks of types, as those."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from experiments.conftest import own_randomness, run, trained  # noqa: F401
from typechecking import without_checks_of_types  # noqa: F401


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Runs are made without worker processes, whose start takes longer than a small run."""

    def each(make: Callable[[str], Any], names: Sequence[str], **others: object) -> Iterator[Any]:
        return map(make, names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrat.reproduce.make_runs.run_tasks", each)
        yield
