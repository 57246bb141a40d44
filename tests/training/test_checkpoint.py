import hashlib
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrat.errors import CheckpointError, RunFolderError
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.training import Checkpoints
from lrat.training.checkpoint_format import Name


def store(folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, **{"identity": "one", **options})


def fill(folder: Path, count: int, **options: Any) -> Checkpoints:
    checkpoints = store(folder, **options)
    for epoch in range(1, count + 1):
        checkpoints.save({"epoch": epoch, "x": torch.full((4,), float(epoch))}, epoch=epoch)
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".pt")


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert store(tmp_path / "never").latest() is None


def test_the_latest_comes_back(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    state = store(tmp_path).latest()
    assert state is not None
    assert state["epoch"] == 3
    assert torch.equal(state["x"], torch.full((4,), 3.0))


def test_keeps_the_last_two_the_named_and_the_selected(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, keep_epochs=(2,))
    for epoch in range(1, 8):
        checkpoints.save({"epoch": epoch}, epoch=epoch, selected=min(epoch, 4))
    assert names(tmp_path) == [f"epoch-00{epoch}.pt" for epoch in (2, 4, 6, 7)]
    assert len(list(tmp_path.iterdir())) == 8
    assert checkpoints.load("selected")["epoch"] == 4
    assert checkpoints.load("last")["epoch"] == 7
    assert checkpoints.load("epoch-2")["epoch"] == 2


def test_without_selection_the_selected_is_the_last(tmp_path: Path) -> None:
    assert fill(tmp_path, 2).load("selected")["epoch"] == 2


def test_one_within_an_epoch_is_newer_than_the_epoch_before(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, 2)
    checkpoints.save({"epoch": 2, "step": 5}, epoch=2, step=5)
    assert checkpoints.load("last") == {"epoch": 2, "step": 5}
    checkpoints.save({"epoch": 3}, epoch=3)
    assert checkpoints.load("last") == {"epoch": 3}


def test_an_unknown_name_tells_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'epoch-9'.*last, selected, epoch-1, epoch-2"):
        fill(tmp_path, 2).load("epoch-9")
    with pytest.raises(CheckpointError, match="'best'"):
        fill(tmp_path, 2).load("best")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path: Path) -> None:
    path.unlink()


def garble_description(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, flip, remove, garble_description])
def test_a_damaged_one_is_named_once_and_the_one_before_is_used(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 3)
    damage(tmp_path / "epoch-003.pt")
    checkpoints = store(tmp_path)
    with caplog.at_level(logging.WARNING):
        state = checkpoints.latest()
    assert state is not None
    assert state["epoch"] == 2
    assert [record.message.count("epoch-003.pt") for record in caplog.records] == [1]


@pytest.mark.parametrize("described", [1, 0], ids=["one before it", "none"])
def test_the_newest_without_its_description_is_named_once(
    described: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = fill(tmp_path, described + 1)
    (tmp_path / f"epoch-00{described + 1}.json").unlink()
    for _ in range(2):
        if described:
            assert checkpoints.load("last")["epoch"] == 1
        else:
            assert checkpoints.latest() is None
    (warning,) = caplog.messages
    assert f"epoch-00{described + 1}.pt" in warning
    assert f"epoch-00{described + 1}.json, which describes it, is missing" in warning


def test_what_a_kill_left_of_an_older_one_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = fill(tmp_path, 2)
    checkpoints.save_portable({"epoch": 3, "model": {}}, (), epoch=3)
    for name in ("epoch-001", "epoch-003"):
        (tmp_path / f"{name}.pt").touch()
    assert checkpoints.load("last")["epoch"] == 3
    assert caplog.messages == []


def test_a_damaged_one_never_displaces_a_good_one(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, 2)
    checkpoints.save({"epoch": 2, "step": 5}, epoch=2, step=5)
    flip(tmp_path / "epoch-003-step-000005.pt")
    checkpoints = store(tmp_path)
    assert checkpoints.load("last")["epoch"] == 2
    checkpoints.save({"epoch": 3}, epoch=3)
    assert names(tmp_path) == ["epoch-002.pt", "epoch-003.pt"]


def test_none_whole_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    for path in tmp_path.glob("*.pt"):
        flip(path)
    with pytest.raises(CheckpointError, match="is whole: remove the folder"):
        store(tmp_path).latest()


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        store(tmp_path, identity="two").latest()


def test_another_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    path = tmp_path / "epoch-001.json"
    write_json(path, {**read_json(path), "format": 99})
    with pytest.raises(CheckpointError, match="format 99"):
        store(tmp_path).latest()


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_loading_executes_nothing(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path / "run", 1)
    path, target = tmp_path / "run" / "epoch-001.pt", tmp_path / "executed"
    for write in (torch.save, lambda bomb, to: Path(to).write_bytes(pickle.dumps(bomb, 2))):
        write({"bomb": Bomb(target)}, path)
        description = json.loads(path.with_suffix(".json").read_text())
        description["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(description))
        with pytest.raises(CheckpointError, match="is whole"):
            checkpoints.latest()
        assert not target.exists()


def test_what_cannot_be_read_back_is_refused_when_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\['source'\]\['at'\] is a int64"):
        store(tmp_path).save({"source": {"at": np.int64(3)}}, epoch=1)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = fill(tmp_path, 1)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrat.files.write.os.fsync", full)
    with pytest.raises(RunFolderError, match=r"cannot write .*epoch-002.pt: No space left"):
        checkpoints.save({"epoch": 2}, epoch=2)
    assert store(tmp_path).load("last")["epoch"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-001.json", "epoch-001.pt"]


DESCRIBED: dict[str, Any] = {
    "a list": lambda about: [about],
    "a text for a number": lambda about: {**about, "epoch": "2"},
    "a fraction": lambda about: {**about, "step": 0.5},
    "a negative number": lambda about: {**about, "epoch": -2},
    "an endless number": lambda about: {**about, "epoch": 10**400},
    "a number for a text": lambda about: {**about, "sha256": 3},
    "something unknown": lambda about: {**about, "path": "/etc"},
    "something missing": lambda about: {
        name: value for name, value in about.items() if name != "identity"
    },
    "no format": lambda about: {**about, "format": None},
    "another place": lambda about: {**about, "epoch": 3},
    "what it is not": lambda about: {**about, "portable": True},
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_an_altered_description_is_damage(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 2)
    path = tmp_path / "epoch-002.json"
    path.write_text(json.dumps(DESCRIBED[what](read_json(path))))
    with caplog.at_level(logging.WARNING):
        state = store(tmp_path).latest()
    assert state is not None
    assert state["epoch"] == 1
    assert "epoch-002.pt is damaged (epoch-002.json " in caplog.text


def test_names_and_their_order() -> None:
    texts = [
        "epoch-003-portable",
        "epoch-003",
        "epoch-004-step-000009",
        "epoch-004-step-000009-measuring-portable",
        "epoch-004-step-000009-measuring",
        "epoch-1000",
    ]
    names = [Name.parse(text) for text in texts]
    assert [str(name) for name in names] == texts
    shuffled = [names[place] for place in (2, 0, 5, 4, 3, 1)]
    assert sorted(shuffled) == names  # type: ignore[type-var]
    for text in (
        "epoch-",
        "epoch-3-step",
        "epoch-3-measuring",
        "epoch-003.bak",
        "last",
        "epoch-003-portable-portable",
    ):
        assert Name.parse(text) is None


def test_the_same_place_is_written_again_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = fill(tmp_path, 1)
    calls = []

    def full_for_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lrat.files.write.os.fsync", full_for_the_second)
        with pytest.raises(RunFolderError, match=r"epoch-001\.json: No space left"):
            checkpoints.save({"epoch": 1, "x": torch.zeros(4)}, epoch=1)
    state = store(tmp_path).latest()
    assert state is not None
    assert torch.equal(state["x"], torch.ones(4))
    checkpoints.save({"epoch": 1, "x": torch.zeros(4)}, epoch=1)
    assert not store(tmp_path).load("last")["x"].any()
