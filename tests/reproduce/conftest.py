"""The small run of the commands' tests; without checks of types, as those."""

from experiments.conftest import own_randomness, run, trained  # noqa: F401
from typechecking import without_checks_of_types  # noqa: F401
