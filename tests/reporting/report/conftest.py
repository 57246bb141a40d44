"""The small run of the commands' tests."""

from experiments.conftest import run, trained  # noqa: F401
