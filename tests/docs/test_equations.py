"""The table from the paper to the code is complete, and what it names exists."""

import re
from importlib import import_module

import pytest

from docs.blocks import ROOT
from lrat.config import catalogue
from lrat.reproduce.paper import FIGURES
from lrat.reproduce.request import TARGETS

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| (Eq\.|Algorithm|Table|Figure|Sec\.|Appendix) ", line)
]
CODE = [row for row in ROWS if row[0].startswith(("Eq", "Algorithm", "Sec", "Appendix"))]
SHOWN = [row for row in ROWS if row[0].startswith(("Table", "Figure"))]


def test_everything_that_the_paper_numbers_is_there() -> None:
    wanted = [f"Eq. {number}" for number in range(1, 16)]
    wanted += [f"Algorithm {number}" for number in range(1, 4)]
    wanted += [f"Table {number}" for number in range(1, 3)]
    wanted += [f"Figure {number}" for number in range(1, 7)]
    first = [row[0] for row in ROWS]
    assert [name for name in wanted if first.count(name) != 1] == []


@pytest.mark.parametrize("row", CODE, ids=lambda row: row[0])
def test_the_code_is_there_and_so_is_its_test(row: list[str]) -> None:
    names = re.findall(r"`(\w+\.\w+)`", row[2])
    assert names
    for name in names:
        module, _, member = name.partition(".")
        assert hasattr(import_module(f"lrat.{module}"), member), name
    tests = re.findall(r"`(tests/[\w/]+\.py)`", row[3])
    assert tests
    assert all((ROOT / test).is_file() for test in tests), row[3]


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row[0])
def test_the_commands_and_their_rows_are_there(row: list[str]) -> None:
    target = row[2].strip("`").removeprefix("lrat reproduce ")
    assert target in TARGETS or target in FIGURES
    methods = re.findall(r"`([\w+-]+)`", row[3])
    assert methods
    assert {catalogue.resolve_method(name) for name in methods} <= set(catalogue.METHODS)
