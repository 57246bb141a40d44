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
