"""The numbers on the speed page stand in the records that it names."""

import re

import pytest

from docs.blocks import ROOT

PAGE = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
RECORD = re.compile(r"`(results/benchmarks/\w+\.md)`")


def claims() -> list[tuple[str, str]]:
    """Every number of the table of what was measured, with the record of its row."""
    found, record = [], ""
    measured = PAGE.partition("## Measured")[2].partition("\n\nVerdicts")[0]
    for line in measured.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"\d+\.\d+", cells[2]):
            named = RECORD.search(cells[3])
            record = named[1] if named else record
            found.append((cells[2], record))
    return found


@pytest.mark.parametrize(("number", "record"), claims())
def test_a_measured_number_is_in_its_record(number: str, record: str) -> None:
    assert number in (ROOT / record).read_text(encoding="utf-8")


def test_every_record_that_is_named_is_there() -> None:
    assert len(claims()) > 8
    assert [name for name in RECORD.findall(PAGE) if not (ROOT / name).is_file()] == []


FINDINGS = (ROOT / "docs" / "what-the-weights-do.md").read_text(encoding="utf-8")
DIFFERENCE = re.compile(r"[+−]?\d+\.\d \[[^\]]+\]")
PRESETS = ("digits", "fashion-mnist", "cifar10-small")


def differences() -> list[tuple[str, str]]:
    """Every difference with its interval in the table of claims, with its column's preset."""
    table = FINDINGS.partition("## Which claims")[2].partition("\nCommands:")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [
        (number, preset)
        for cells in rows
        for preset, cell in zip(PRESETS, cells[1:], strict=True)
        for number in DIFFERENCE.findall(cell)
    ]


@pytest.mark.parametrize(("number", "preset"), differences())
def test_a_claims_difference_is_in_its_preset_s_tables(number: str, preset: str) -> None:
    tables = (ROOT / "results" / preset).glob("table[12].md")
    assert any(number in table.read_text(encoding="utf-8") for table in tables)


def test_the_table_of_claims_is_read() -> None:
    assert len(differences()) > 20
