"""The run-time type checker of the test suite: beartype, with an int allowed where a float is."""

from collections.abc import Iterator

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@pytest.fixture(autouse=True, scope="module")
def without_checks_of_types() -> Iterator[None]:
    """For folders of tests that run whole commands (their ``conftest.py`` imports it).

    What they call has tests of its own, in which types are checked; here the checks would cost a
    third of the time.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
