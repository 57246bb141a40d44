"""What `lrat reproduce` keeps of its tables may hold anything: one line says so."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.odd_files import odd_json
from lrat.errors import LratError
from lrat.reproduce import folder
from lrat.reproduce.evidence import metrics_of
from lrat.reproduce.folder import check, claim
from lrat.reproduce.presets import Choice
from lrat.training.metrics import EpochRecord


def _refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except LratError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["preset.json", "history.json"])
def test_odd_records_of_a_results_folder_are_one_line(name: str, tmp_path: Path) -> None:
    choice = Choice.of("digits")
    claim(tmp_path, choice)
    done = {"command": "lrat reproduce table1", "seconds": 3.0, "about": "2 rows"}
    folder.note_in_history(tmp_path, "table1", **done)
    whole = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    refused = 0
    for _, content in [*odd_json(whole[tmp_path / name])][:: 9 if name == "preset.json" else 1]:
        for path, before in whole.items():
            path.write_bytes(content if path.name == name else before)
        lines = [
            _refusal(lambda: check(tmp_path, choice)),
            _refusal(lambda: folder.note_in_history(tmp_path, "table2", **done)),
        ]
        assert all("\n" not in line and len(line) < 3000 for line in lines)
        refused += any(lines)
    assert refused >= 10


def test_odd_metrics_are_one_line(tmp_path: Path) -> None:
    record = EpochRecord(
        epoch=1, lr=0.1, loss=1.0, steps=1, images=4, terms={"kl": {"loss": 1.0}},
        passes={"attack_forwards": 1.0}, notices=({"guard": "x", "text": "y"},),
    )  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    refused = 0
    for _, content in odd_json(record.to_json().encode()):
        path.write_bytes(content + b"\n")
        line = _refusal(lambda: metrics_of(tmp_path, 1))
        assert "\n" not in line
        refused += line != ""
    assert refused > 100
