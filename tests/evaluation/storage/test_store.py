"""Folders that several processes begin at once, and what they say about their extent."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from lrat.errors import RunFolderError
from lrat.evaluation.storage import store as storage
from lrat.evaluation.storage.store import OutcomeStore, digest_of
from lrat.files.read import read_json


def test_of_processes_that_begin_a_folder_at_once_one_identity_wins(tmp_path: Path) -> None:
    """The other processes are refused; the written identity is not replaced."""
    count = 8
    together, refused = threading.Barrier(count), []

    def begin(seed: int) -> None:
        together.wait()
        try:
            OutcomeStore.open(tmp_path / "eval", {"seed": seed})
        except RunFolderError as error:
            refused.append((seed, str(error)))

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = json.loads((tmp_path / "eval" / "identity.json").read_text())["seed"]
    assert sorted(seed for seed, _ in refused) == sorted(set(range(count)) - {winner})
    assert all(f"(seed: {winner} there, {seed} here)" in message for seed, message in refused)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["identity.json"]


def test_an_identity_that_appears_after_we_looked_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OutcomeStore.open(tmp_path, {"seed": 0})
    monkeypatch.setattr(storage, "_exists", lambda path: False)
    with pytest.raises(RunFolderError, match="seed: 0 there, 1 here"):
        OutcomeStore.open(tmp_path, {"seed": 1})
    OutcomeStore.open(tmp_path, {"seed": 0})


def test_without_links_the_identity_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(storage.os, "link", refuse)
    OutcomeStore.open(tmp_path, {"seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


def test_whoever_begins_a_folder_and_clears_it_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that we are about to link looks to the other one like a leftover."""
    link = storage.os.link

    def after_the_other(source: Path, target: Path) -> None:
        monkeypatch.setattr(storage.os, "link", link)
        OutcomeStore.open(tmp_path, {"seed": 0})
        link(source, target)

    monkeypatch.setattr(storage.os, "link", after_the_other)
    with pytest.raises(RunFolderError, match="seed: 0 there, 1 here"):
        OutcomeStore.open(tmp_path, {"seed": 1})


def test_a_folder_that_may_not_be_looked_into_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(RunFolderError, match=r"cannot look for .*: Permission denied; choose"):
        OutcomeStore.open(tmp_path / "eval", {"seed": 0})


def test_the_extent_is_that_of_the_last_call_and_does_not_depend_on_order(tmp_path: Path) -> None:
    store = OutcomeStore.open(tmp_path, {"seed": 0})
    index = np.array([5, 2, 9])
    store.expect(index)
    written = (tmp_path / "extent.json").stat().st_mtime_ns
    assert read_json(tmp_path / "extent.json") == {
        "images": 3,
        "digest": digest_of(np.sort(index)),
    }
    store.expect(index[::-1])
    assert (tmp_path / "extent.json").stat().st_mtime_ns == written, "nothing new, nothing written"
    store.expect(index[:2])
    assert json.loads((tmp_path / "extent.json").read_text())["images"] == 2


def test_notes_are_kept_from_the_first_outcome_on(tmp_path: Path) -> None:
    store = OutcomeStore.open(tmp_path, {"seed": 0})
    store.keep_notes(())
    assert store.notes == ()
    assert not (tmp_path / "notes.json").exists()
    store.keep_notes(("two classes",))
    store.keep_notes(("probabilities", "two classes"))
    again = OutcomeStore.open(tmp_path, {"seed": 0})
    assert again.notes == ("two classes", "probabilities"), "whoever found them"


def test_notes_of_several_processes_at_once_are_united(tmp_path: Path) -> None:
    OutcomeStore.open(tmp_path, {"seed": 0})
    together = threading.Barrier(8)

    def note(number: int) -> None:
        store = OutcomeStore(folder=tmp_path)
        together.wait()
        for each in range(3):
            store.keep_notes((f"note {number}.{each}",))

    threads = [threading.Thread(target=note, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(OutcomeStore(folder=tmp_path).notes) == {
        f"note {number}.{each}" for number in range(8) for each in range(3)
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.json", "notes.json"]
