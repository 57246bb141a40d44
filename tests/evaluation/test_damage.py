"""Altered evaluations are refused, or computed again with a message."""

import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.errors import RunFolderError
from lrat.evaluation import EvaluationResult, custom, evaluate_suite
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.storage.store import parts_of, read_part, read_parts, write_part
from lrat.files import write as files
from lrat.files.read import read_json
from lrat.files.write import remove_leftovers, temporary, write_atomically, write_json


def evaluate(folder: Path) -> EvaluationResult:
    suite = custom(THREAT, {"step": Calls()})
    return evaluate_suite(
        linear(), batches_of(*images_and_labels(20), size=20), suite, folder=folder
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    evaluate(tmp_path / "evaluation")
    return tmp_path / "evaluation"


def alter(folder: Path, **columns: Any) -> None:
    """Rewrite the part of the step as an earlier version would have, without checksums."""
    (path,) = parts_of(folder, "step-*")
    table = read_part(path).columns()
    for name, change in columns.items():
        table[name] = change(table[name])
    parquet.write_table(arrow.table(table), path)


def first(values: np.ndarray, value: Any) -> np.ndarray:
    changed = values.copy()
    changed[0] = value
    return changed


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a verdict": ({"fooled": lambda x: first(x, ~x[0])}, "verdict that is not its prediction's"),
    "a margin": ({"margin": lambda x: -x - np.sign(x)}, "margin of the other sign"),
    "an attack": ({"attack": lambda x: np.full(len(x), "pgd")}, "its name is of another attack"),
    "an image": ({"index": lambda x: first(x, 400)}, "its name is of another attack or other im"),
    "an image twice": ({"index": lambda x: first(x, x[1])}, "is there twice|its name is"),
    "a distance": ({"distance": lambda x: first(x, 0.9)}, "at a distance of 0.9, outside"),
    "no distance": ({"distance": lambda x: first(x, np.nan)}, "at a distance of nan, outside"),
    "a count": ({"forwards": lambda x: first(x, -1.0)}, "no count of passes"),
    "no verdict": ({"fooled": lambda x: arrow.array([None, *x[1:].tolist()])}, "lacks values"),
    "all robust": (
        {
            "fooled": np.zeros_like,
            "margin": abs,
        },
        "verdict",
    ),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_rows_that_contradict_themselves_are_refused(folder: Path, what: str) -> None:
    columns, message = CONTRADICTIONS[what]
    alter(folder, **columns)
    for read in (evaluate, EvaluationResult.from_folder):
        with pytest.raises(RunFolderError, match=message) as refused:
            read(folder)
        assert "\n" not in str(refused.value)


def test_parts_of_an_earlier_version_are_read(folder: Path) -> None:
    before = str(EvaluationResult.from_folder(folder))
    alter(folder)
    for path in folder.glob("*.json"):
        path.write_text(json.dumps(read_json(path)))
    assert str(evaluate(folder)) == str(EvaluationResult.from_folder(folder)) == before


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_a_column_that_was_altered_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyarrow: bool
) -> None:
    """Consistently, so that the checksum alone can tell."""
    rows = evaluate(tmp_path / "e").outcomes.under("step")
    digests = files._checksums(rows.columns())
    monkeypatch.setattr("lrat.files.write._checksums", lambda columns: digests)
    if not with_pyarrow:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = write_part(tmp_path, replace(rows, step=rows.step + 1))
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="column step is not as it was written"):
        read_part(path)


def test_a_summary_that_the_outcomes_contradict_is_refused(folder: Path) -> None:
    path = folder / "summary.json"
    stored = read_json(path)
    stored["accuracy"]["step"]["value"] += 0.05
    write_json(path, stored)
    before = path.read_bytes()
    for read in (evaluate, EvaluationResult.from_folder):
        with pytest.raises(RunFolderError, match=r"summary.json says .* under step, and the outc"):
            read(folder)
    assert path.read_bytes() == before
    path.unlink()
    evaluate(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe{", b'{"accuracy": 3}'])
def test_a_damaged_summary_is_made_anew_and_said(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "summary.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"summary.json .*run the same evaluation again"):
        EvaluationResult.from_folder(folder)
    with caplog.at_level(logging.WARNING):
        evaluate(folder)
    assert path.read_bytes() == whole
    assert "it is written again" in caplog.text


def test_a_finished_evaluation_is_read_where_nobody_can_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise PermissionError(13, "Permission denied")

    before = str(EvaluationResult.from_folder(folder))
    monkeypatch.setattr("lrat.files.write._opened", refuse)
    assert str(evaluate(folder)) == before


ATTACKS = {"attacks": {"step": "Calls()"}}
SHAPES: list[dict[str, Any]] = [
    {},
    {"attacks": 3},
    {**ATTACKS, "suite": "s", "threat": "t"},
    {**ATTACKS, "suite": 1, "threat": "t", "seed": 0},
    {**ATTACKS, "suite": "s", "threat": "t", "seed": True},
    {**ATTACKS, "suite": "s", "threat": "t", "seed": 0, "cascades": {"c": ["unknown"]}},
    {**ATTACKS, "suite": "s", "threat": "t", "seed": 0, "cascades": {"c": [["step"]]}},
    {**ATTACKS, "suite": "s", "threat": "t", "seed": 0, "tolerance": "much"},
    {"attacks": {"step": 3}, "suite": "s", "threat": "t", "seed": 0},
    {"attacks": {"stop": "Calls()"}, "suite": "s", "threat": "t", "seed": 0},
]


@pytest.mark.parametrize("identity", SHAPES)
def test_an_identity_of_another_shape_is_one_line(folder: Path, identity: dict[str, Any]) -> None:
    write_json(folder / "identity.json", identity)
    with pytest.raises(RunFolderError, match=r"identity|does not have") as refused:
        EvaluationResult.from_folder(folder)
    assert "\n" not in str(refused.value)


def test_processes_of_one_number_write_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several containers each has process 1."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    contents = [bytes([number]) * 10_000 for number in range(8)]
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                write_atomically(tmp_path / "part.npz", lambda file: file.write(content))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (tmp_path / "part.npz").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    ours = temporary(tmp_path / "part.npz")
    ours.write_bytes(b"half")
    others = [tmp_path / name for name in (".x.tmp", ".part.npz", "part.npz.tmp", ".lock")]
    for path in others:
        path.touch()

    def write(file: Any) -> None:
        remove_leftovers(tmp_path)
        (here,) = set(tmp_path.iterdir()) - set(others)
        assert here != ours
        file.write(b"whole")

    write_atomically(tmp_path / "new.npz", write)
    assert {path.name for path in tmp_path.iterdir()} == {
        "new.npz",
        *(path.name for path in others),
    }


def test_an_evaluation_removes_what_a_killed_one_left(folder: Path) -> None:
    left = [
        temporary(folder / "identity.json"),
        folder / ".identity.json.0123456789abcdef0123456789abcdef",
        temporary(folder / "gallery" / "all-aa.npz"),
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    evaluate(folder)
    assert [path for path in left if path.exists()] == []


def test_outcomes_in_hand_are_not_contradictory(folder: Path) -> None:
    assert Outcomes.concatenate([read_parts(folder)]).contradiction is None
