"""The comparison with other libraries runs, and what it counts is what the attacks do."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.commands import script

pytestmark = pytest.mark.xdist_group("peers")  # their fixtures take long: made once

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.py"
NAMES = {"torchattacks": "torchattacks", "foolbox": "foolbox", "art": "ART"}
PASSES, WEIGHT_GRADIENTS = 5, 6


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a tiny run writes: 2 steps, width 2."""
    written = tmp_path_factory.mktemp("peers") / "deep" / "peers.md"
    output = script(SCRIPT, "--quick", "--threads", "1", "--out", written)
    assert written.read_text() == output
    return output


def table(output: str) -> list[list[str]]:
    lines = [line for line in output.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rows(output: str, what: str, who: str) -> list[list[str]]:
    found = [row for row in table(output) if what in row[0] and row[1] == who]
    assert found, f"no row of {who} for {what}"
    return found


def test_every_row_has_every_cell(output: str) -> None:
    assert {len(row) for row in table(output)} == {9}


@pytest.mark.parametrize("who", ["lrat, plain model", "lrat, float32 view"])
@pytest.mark.parametrize("what", ["PGD-2", "CW-2"])
def test_our_pgd_is_one_pass_each_way_per_step(output: str, what: str, who: str) -> None:
    for row in rows(output, f": {what}", who):
        assert (row[PASSES], row[WEIGHT_GRADIENTS]) == ("2 + 2", "0")


def test_our_saa_is_three_stacked_tries_after_the_clean_pass(output: str) -> None:
    for row in rows(output, "APGD-T", "lrat SAA, float32 view"):
        assert (row[PASSES], row[WEIGHT_GRADIENTS]) == ("10 + 6", "0")


def test_a_step_forms_weight_gradients_once_and_the_authors_gairat_in_every_pass(
    output: str,
) -> None:
    for what in ("SAT step", "GAIRAT step", "LRAT-SAA step"):
        assert {row[WEIGHT_GRADIENTS] for row in rows(output, what, "lrat, view")} == {"1"}
    for row in rows(output, "GAIRAT step", "as its authors write it"):
        assert (row[PASSES], row[WEIGHT_GRADIENTS]) == ("3 + 3", "3")


def test_floors_are_told_for_both_methods(output: str) -> None:
    for name in ("SAT", "LRAT-SAA"):
        assert output.count(f"* {name}: ") == 2


@pytest.mark.parametrize("module", sorted(NAMES))
def test_a_peer_is_measured_or_named_as_missing(output: str, module: str) -> None:
    if find_spec(module) is None:
        (missing,) = [line for line in output.splitlines() if line.startswith("Not installed")]
        assert module in missing
        assert not [row for row in table(output) if row[1] == NAMES[module]]
    else:
        assert "Error" not in "".join(rows(output, ": PGD-2", NAMES[module])[0])


@pytest.mark.parametrize("module", ["foolbox", "art"])
def test_a_peer_that_calls_backward_forms_weight_gradients(output: str, module: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed here; make bench installs it")
    for row in rows(output, ": PGD-2", NAMES[module]):
        assert row[WEIGHT_GRADIENTS] == "2"
