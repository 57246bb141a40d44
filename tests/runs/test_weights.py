"""State dictionaries that hold more than tensors, and files of weights that others wrote."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

import lrat
from builders import seeded
from experiments.commands import lrat as command
from lrat.attacks import PGD, Square
from lrat.errors import CheckpointError, LratError, ModelError
from lrat.evaluation import custom
from lrat.runs.folder import BESIDE_TENSORS, read_config
from lrat.runs.weights import (
    fill,
    load_weights,
    read_safetensors,
    weights_digest,
    write_safetensors,
)
from lrat.threat import Linf

pytestmark = pytest.mark.usefixtures("own_randomness")
BALL = Linf(epsilon=0.05)
LABELS = torch.arange(32) % 2
IMAGES = torch.rand(32, 1, 5, 5, generator=torch.Generator().manual_seed(0))


class Keeping(nn.Module):
    """A model whose state dictionary holds whatever ``extra`` is."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(25, 2)
        self.extra = extra

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


EXTRAS = {
    "numbers": {"version": 3, "scale": 0.5, "name": "x", 1: None},
    "tensors": {"inside": {"scale": torch.tensor([1.5, 2.0])}, "more": [torch.ones(2, 2)]},
    "bytes": b"\x00\xff",
    "a tuple": ("a", (1, True)),
}


@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("kept", [False, True])
def test_a_state_that_holds_more_than_tensors_is_trained_and_evaluated(
    extra: Any, kept: bool, tmp_path: Path
) -> None:
    model = seeded(0, lambda: Keeping(extra))
    before = weights_digest({"state": extra})
    options: dict[str, Any] = {"method": "natural", "threat": BALL, "epochs": 2, "lr": 0.01}
    if kept:
        options |= {"out": tmp_path / "run", "ema": 0.5}
    lrat.fit(model, (IMAGES, LABELS), **options)
    assert weights_digest({"state": model.extra}) == before
    suite = custom(BALL, {"square": Square(threat=BALL, queries=2)})
    result = lrat.evaluate(
        model, (IMAGES, LABELS), threat=BALL, suite=suite, folder=tmp_path / "evaluation"
    )
    assert len(result.index) == 32
    found = read_back(model.state_dict(), tmp_path)
    assert weights_digest(found) == weights_digest(model.state_dict())
    assert type(found["_extra_state"]) is type(extra)


def read_back(weights: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "w.safetensors").write_bytes(write_safetensors(weights))
    return read_safetensors(folder / "w.safetensors")


def test_every_part_of_a_state_counts() -> None:
    digests = {weights_digest({"state": extra}) for extra in EXTRAS.values()}
    digests.add(weights_digest({"state": {"inside": {"scale": torch.tensor([1.5, 2.5])}}}))
    digests.add(weights_digest({"state": {"version": 4, "scale": 0.5}}))
    assert len(digests) == len(EXTRAS) + 2


def test_what_no_checkpoint_can_keep_is_refused_before_training(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "natural", "threat": BALL, "epochs": 1}
    with pytest.raises(CheckpointError, match=r"_extra_state.* is a set"):
        lrat.fit(Keeping({1, 2}), (IMAGES, LABELS), out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    lrat.fit(Keeping({1, 2}), (IMAGES, LABELS), **options)


def test_a_run_keeps_all_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer, self.seen = torch.nn.Linear(64, 10), {'steps': 0}\n"
        "    def forward(self, images):\n"
        "        if self.training:\n"
        "            self.seen['steps'] += 1\n"
        "        return self.layer(images.flatten(1))\n"
        "    def get_extra_state(self):\n"
        "        return {**self.seen, 'mean': torch.ones(2)}\n"
        "    def set_extra_state(self, state):\n"
        "        self.seen = {'steps': state['steps']}\n"
    )
    run = tmp_path / "run"
    model = ("--model", f"{tmp_path / 'mine.py'}:Net", "--set", "data.train_limit=60")
    trained = command("train", "natural", *model, "--epochs", "1", "--out", str(run))
    assert trained.status == 0, trained.err
    found = read_safetensors(run / "model.safetensors")["_extra_state"]
    assert found["steps"] > 0
    assert found["mean"].tolist() == [1, 1]
    assert command("evaluate", str(run), "--limit", "20").status == 0


def quantised_model() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_quantised_model_is_attacked_by_square(tmp_path: Path) -> None:
    quantised = quantised_model()
    suite = custom(BALL, {"square": Square(threat=BALL, queries=5)})
    options: dict[str, Any] = {"threat": BALL, "suite": suite, "folder": tmp_path}
    first = lrat.evaluate(quantised, (IMAGES, LABELS), **options)
    assert str(lrat.evaluate(quantised, (IMAGES, LABELS), **options)) == str(first)
    with pytest.raises(LratError, match="model: "):
        lrat.evaluate(quantised_model(), (IMAGES, LABELS), **options)


ONES = torch.ones(2, 2)
UNWRITABLE = {
    "quantised": lambda: torch.quantize_per_tensor(ONES, 0.1, 0, torch.qint8),
    "by channel": lambda: torch.quantize_per_channel(
        ONES, torch.ones(2), torch.zeros(2), 0, torch.quint8
    ),
    "complex": lambda: ONES.to(torch.complex128),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_tensor_that_no_file_of_weights_holds_is_one_line(make: Callable[[], Tensor]) -> None:
    value = make()
    with pytest.raises(ModelError, match=rf"^[^\n]*holds odd, a tensor of {value.dtype}[^\n]*: "):
        write_safetensors({"layer": torch.ones(2), "odd": value})


@pytest.mark.parametrize(
    "kind", ["float8_e4m3fn", "float8_e5m2", "complex64", "uint16", "bool", "bfloat16"]
)
def test_tensors_of_other_types_are_kept(kind: str, tmp_path: Path) -> None:
    value = torch.ones(2).to(getattr(torch, kind))
    found = read_back({"odd": value}, tmp_path)["odd"]
    assert found.dtype == value.dtype
    assert torch.equal(found.view(torch.uint8), value.view(torch.uint8))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "buffer",
    [
        "torch.quantize_per_tensor(torch.ones(2), .1, 0, torch.qint8)",
        "torch.ones(2).to(torch.complex128)",
    ],
)
def test_a_run_that_could_not_be_kept_is_not_begun(buffer: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(64, 10)\n"
        f"        self.register_buffer('odd', {buffer})\n"
        "    def forward(self, images):\n"
        "        return self.layer(images.flatten(1))\n"
    )
    run = tmp_path / "run"
    model = ("--model", f"{tmp_path / 'mine.py'}:Net", "--set", "data.train_limit=60")
    done = command("train", "natural", *model, "--epochs", "1", "--out", str(run))
    assert done.status == 2
    assert "odd" in done.complaint
    assert not (run / "metrics.jsonl").exists()


def test_a_model_that_does_not_load_its_own_state_is_refused_before_training() -> None:
    class Renamed(nn.Linear):
        def state_dict(self, *given: Any, **named: Any) -> Any:
            return {f"my.{name}": value for name, value in super().state_dict().items()}

    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 2))
    model.state_dict = Renamed(2, 2).state_dict  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"^[^\n]*does not load its own state_dict[^\n]*$"):
        lrat.fit(model, (IMAGES, LABELS), threat=BALL, method="natural", epochs=1)


@pytest.mark.parametrize(
    "beside",
    [
        *("[]", "3", "null", '{"a": {}}', '{"a": {"dtype": "none"}}', '{"a": {"dtype": "load"}}'),
        *('{"a": {"sparse": ["x", "load"]}}', '{"a": {"sparse": ["x", "sparse_bsr"]}}'),
        *('{"a": {"tensor": "none"}}', '{"a": {"pairs": [[[1], 2]]}}', '{"a": {"bytes": "zz"}}'),
    ],
)
def test_what_stands_beside_the_tensors_of_a_stranger_is_one_line(
    beside: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({"x": torch.ones(2)}, {BESIDE_TENSORS: beside}))
    with pytest.raises(CheckpointError, match="is no safetensors file") as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value)


class Sparse(nn.Module):
    """A model with a sparse matrix among its buffers."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(25, 2)
        self.register_buffer("matrix", matrix)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer((self.matrix @ images.flatten(1).T).T)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_model_with_a_sparse_buffer_is_trained_evaluated_and_stored(
    layout: torch.layout, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this layout beta
        model = seeded(0, lambda: Sparse(torch.eye(25).to_sparse(layout=layout)))
        suite = custom(BALL, {"pgd": PGD(threat=BALL, steps=1, step_size=0.05)})
        data = IMAGES, LABELS
        lrat.fit(model, data, threat=BALL, method="natural", epochs=1, out=tmp_path / "run")
        lrat.evaluate(model, data, threat=BALL, suite=suite, folder=tmp_path / "evaluation")
        found = read_back(model.state_dict(), tmp_path)
        assert found["matrix"].layout is layout
        assert weights_digest(found) == weights_digest(model.state_dict())
        fill(model, found, "w.safetensors")


def _swapped_once_open(path: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``path`` become ``other`` as soon as it was opened for the first time."""
    system_open = os.open

    def opening(name: Any, *arguments: Any, **named: Any) -> int:
        descriptor = system_open(name, *arguments, **named)
        if str(name).endswith(path.name) and other.exists():
            os.replace(other, path)
        return descriptor

    monkeypatch.setattr(os, "open", opening)


def test_weights_are_read_from_the_file_whose_digest_was_checked(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "model.safetensors"
    whole = read_safetensors(path)
    save_file({name: value + 1 for name, value in whole.items()}, run / "other")
    _swapped_once_open(path, run / "other", monkeypatch)
    assert weights_digest(read_safetensors(path)) == weights_digest(whole)
    assert not (run / "other").exists()
    with pytest.raises(CheckpointError, match="digest"):
        read_safetensors(path)


def test_a_checkpoint_is_read_from_the_file_whose_digest_was_checked(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = read_config(run), run / "checkpoints"
    whole = weights_digest(load_weights(run, config, "epoch-2"))
    shutil.copy(folder / "epoch-001.pt", run / "other")
    _swapped_once_open(folder / "epoch-002.pt", run / "other", monkeypatch)
    assert weights_digest(load_weights(run, config, "epoch-2")) == whole
    assert not (run / "other").exists()
    with pytest.raises(CheckpointError, match="digest"):
        load_weights(run, config, "epoch-2")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link to nowhere"])
def test_selected_weights_are_not_taken_from_elsewhere_where_no_file_is(
    kind: str, run: Path
) -> None:
    path = run / "model.safetensors"
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere/model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(run, read_config(run), "selected")
