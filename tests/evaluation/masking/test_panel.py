"""The value that a panel is: worst status, JSON, table."""

import json
from dataclasses import replace

import pytest

from lrat.errors import DataError
from lrat.evaluation.masking import Check, Panel

PASSED = Check(name="range", status="passed", value=0.1, limit=0.5, sentence="All is well.")
FAILED = Check(name="input gradients", status="failed", value=1.0, limit=0.01, sentence="No. " * 40)
SKIPPED = Check(name="Square", status="not run", value=None, limit=None, sentence="Not run: why.")


def panel(*checks: Check) -> Panel:
    return Panel(checks=checks, n=3, threat="Linf(epsilon=0.1)")


def test_the_status_is_the_worst() -> None:
    suspicious = replace(PASSED, status="suspicious")
    assert panel(PASSED).status == "passed"
    assert panel(PASSED, SKIPPED).status == "not run"
    assert panel(suspicious, SKIPPED, PASSED).status == "suspicious"
    assert panel(PASSED, FAILED, suspicious, SKIPPED).status == "failed"


def test_checks_are_found_by_name() -> None:
    assert panel(PASSED, FAILED)["input gradients"] is FAILED
    with pytest.raises(KeyError):
        panel(PASSED)["Square"]


def test_json_and_back() -> None:
    whole = panel(PASSED, FAILED, SKIPPED)
    assert Panel.from_dict(json.loads(json.dumps(whole.as_dict()))) == whole
    assert whole.as_dict()["status"] == "failed"


def test_what_is_no_panel_is_refused() -> None:
    with pytest.raises(DataError, match="no masking panel"):
        Panel.from_dict({"n": 3})
    good = panel(PASSED).as_dict()
    for key, value in (("value", "0.1"), ("limit", True), ("sentence", None)):
        with pytest.raises(DataError, match="no masking panel"):
            Panel.from_dict(good | {"checks": [good["checks"][0] | {key: value}]})
    with pytest.raises(DataError, match="status"):
        Panel.from_dict(good | {"checks": [good["checks"][0] | {"status": "fine"}]})


def test_the_table_is_aligned_and_tells_everything() -> None:
    lines = str(panel(PASSED, FAILED, SKIPPED)).splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if not line.startswith(" ") and "  " in line]
    assert {
        row.index(word) for row, word in zip(rows[1:4], ("passed", "failed", "not"), strict=True)
    } == {rows[0].index("status")}
    assert "    All is well." in lines
    assert lines[-1] == "masking: failed; n 3, Linf(epsilon=0.1)"
