"""The run-time type checker of the test suite: beartype, with an int allowed where a float is."""

import ast
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping._import_hook import JaxtypingTransformer

outermost = beartype(conf=BeartypeConf(is_pep484_tower=True))


def leave_out_functions_in_functions() -> None:
    """Check none that is defined inside another one.

    Each time that such a definition is reached its checks would be compiled anew: two thirds of the
    time of a test of an attack, which makes one at every step.
    """
    visit = JaxtypingTransformer.visit_FunctionDef

    def visit_function(self: Any, node: ast.FunctionDef) -> ast.FunctionDef:
        if any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
            return node
        return visit(self, node)

    JaxtypingTransformer.visit_FunctionDef = visit_function


@pytest.fixture(autouse=True, scope="module")
def without_checks_of_types() -> Iterator[None]:
    """For folders of tests that run whole commands or many attacks (their ``conftest.py`` imports
    it).

    What they call has tests of its own, in which types are checked; here the checks would cost a
    third of the time.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
