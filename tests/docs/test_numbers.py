"""The numbers on the speed page stand in the records that it names."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from docs.blocks import ROOT
from lrat.weighting import MarginPower

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
SIGNED = re.compile(r"([+−0]) \(([+−]\d+\.\d \[[^\]]+\])\)")
DIFFERENCE = re.compile(r"[+−]?\d+\.\d \[[^\]]+\]")
COLUMNS = ("digits", "digits", "fashion-mnist", "fashion-mnist", "cifar10-small")
"""The preset of each column of the table of claims."""
FOLDERS = ("digits", "digits-control", "fashion-mnist", "cifar10-small")
CLAIMS = ROOT / "results" / "claims.md"


def recorded(preset: str) -> str:
    """What the preset's tables say, and its part of the tested claims."""
    tables = sorted((ROOT / "results" / preset).glob("table[12].md"))
    tested = CLAIMS.read_text(encoding="utf-8").split("\n## ")
    return "\n".join(
        [each.read_text(encoding="utf-8") for each in tables]
        + [part for part in tested if part.startswith((f"{preset}: ", f"{preset}-control: "))]
    )


def differences() -> list[tuple[str, str]]:
    """Every difference with its interval in the table of claims, with its column's preset."""
    table = FINDINGS.partition("## Which claims")[2].partition("\nCommand:")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [
        (number, preset)
        for cells in rows
        for preset, cell in zip(COLUMNS, cells[1:], strict=True)
        for number in DIFFERENCE.findall(cell)
    ]


def signs() -> list[tuple[str, str, str]]:
    """Every tested cell's sign, difference and preset; not CIFAR-10's, which are of one seed."""
    table = FINDINGS.partition("## Which claims")[2].partition("\nCommand:")[0]
    return [
        (found[1], found[2], preset)
        for line in table.splitlines()
        if line.startswith("|")
        for preset, cell in zip(COLUMNS, line.strip("|").split("|")[1:], strict=True)
        if (found := SIGNED.match(cell.strip()))
    ]


@pytest.mark.parametrize(("number", "preset"), differences())
def test_a_claims_difference_is_in_its_preset_s_tables(number: str, preset: str) -> None:
    assert number in recorded(preset)


@pytest.mark.parametrize(("sign", "cell", "preset"), signs())
def test_a_claims_sign_is_what_its_test_says(sign: str, cell: str, preset: str) -> None:
    """``+`` and ``−`` where the record has a star; ``0`` where it has none."""
    assert (f"{cell} *" in recorded(preset)) == (sign != "0")


def test_the_table_of_claims_is_read() -> None:
    assert len(differences()) > 40
    assert len(signs()) > 30


def test_weights_differences_are_in_the_record() -> None:
    section = FINDINGS.partition("## Do the weights do anything?")[2].partition("\nRecords:")[0]
    for line in section.splitlines():
        for preset, name in (("digits", ", digits |"), ("fashion-mnist", ", Fashion-MNIST |")):
            if name in line:
                cells = DIFFERENCE.findall(line)
                assert len(cells) == 3
                assert [cell for cell in cells if cell not in recorded(preset)] == []


def test_the_tested_claims_follow_from_the_tables(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "claims.py"
    folders = [ROOT / "results" / name for name in FOLDERS]
    made = tmp_path / "claims.md"
    runpy.run_path(str(script))["main"]([*map(str, folders), "--out", str(made)])
    assert made.read_text(encoding="utf-8") == CLAIMS.read_text(encoding="utf-8")


@pytest.mark.parametrize(("least", "most", "size"), [(-1.0, 1.0, 8 / 9), (-0.8, 0.9, 0.92)])
def test_near_uniformity_is_what_evenly_spread_margins_give(
    least: float, most: float, size: float
) -> None:
    """(mean w)^2 / mean w^2 of Eq. 12 at the paper's values, for margins spread evenly."""
    margins = torch.linspace(least, most, 200_001, dtype=torch.float64)
    weights = MarginPower(alpha=2.0, beta=0.5).of_margin(margins)
    assert float(weights.mean() ** 2 / (weights**2).mean()) == pytest.approx(size, abs=5e-4)
    assert "8/9" in FINDINGS
