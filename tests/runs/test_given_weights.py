"""Weights as other programs save them: what is taken out of a file, and what fits a network."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from builders import seeded
from lrat.errors import CheckpointError, LratError
from lrat.models import Normalize, Normalized, with_normalization
from lrat.runs.fill_given import Filled, fill_given
from lrat.runs.given_weights import read_given_weights

State = Mapping[str, Any]


def network(classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, classes)
    )


WEIGHTS: State = seeded(1, network).state_dict()


def stored(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def prefixed(prefix: str, weights: State = WEIGHTS) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def filled(content: Any, folder: Path, *, into: nn.Module | None = None, **options: Any) -> Filled:
    """What loading ``content`` into a network did, after checking that its weights arrived."""
    model = seeded(2, network) if into is None else into
    given = read_given_weights(stored(folder / "w.pt", content))
    done = fill_given(model, given, **options)
    inner = model.network if isinstance(model, Normalized) else model
    fresh = {name.removeprefix("network.") for name in done.fresh}
    for name, value in inner.state_dict().items():
        if name not in fresh:
            assert torch.equal(value, WEIGHTS[name]), name
    return done


def refused(content: Any, folder: Path, **options: Any) -> str:
    with pytest.raises(LratError) as caught:
        filled(content, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.backbone.", "net.", "f.g."],
)
@pytest.mark.parametrize("wrap", [None, "none", "imagenet"])
def test_prefixes_of_wrappers_are_left_out(prefix: str, wrap: str | None, tmp_path: Path) -> None:
    model = seeded(2, network)
    into = model if wrap is None else with_normalization(model, wrap)
    done = filled(prefixed(prefix), tmp_path, into=into)
    assert bool(done.notes) is bool(prefix)
    assert all(f"{prefix}0.weight" in note for note in done.notes)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
def test_the_state_in_a_training_checkpoint_is_found(key: str, tmp_path: Path) -> None:
    done = filled({"epoch": 3, "optimizer": {"lr": 0.1}, key: prefixed("module.")}, tmp_path)
    assert any(repr(key) in note for note in done.notes)


def test_another_state_is_named_and_can_be_asked_for(tmp_path: Path) -> None:
    average = {name: value * 2 for name, value in WEIGHTS.items()}
    path = stored(tmp_path / "w.pt", {"state_dict": dict(WEIGHTS), "state_dict_ema": average})
    assert f"{path}#state_dict_ema" in " ".join(read_given_weights(path).notes)
    chosen = read_given_weights(f"{path}#state_dict_ema").tensors
    assert torch.equal(chosen["0.weight"], average["0.weight"])
    with pytest.raises(CheckpointError, match="'state_dict', 'state_dict_ema'"):
        read_given_weights(f"{path}#nothing")


def test_a_key_may_be_the_beginning_of_names_also_in_safetensors(tmp_path: Path) -> None:
    average = {name: value * 2 for name, value in WEIGHTS.items()}
    both = {**prefixed("model."), **prefixed("ema.", average)}
    save_file(both, tmp_path / "w.safetensors")
    for path in (stored(tmp_path / "w#1.pt", {"state_dict": both}), tmp_path / "w.safetensors"):
        chosen = read_given_weights(f"{path}#ema").tensors
        assert chosen.keys() == WEIGHTS.keys()
        assert torch.equal(chosen["0.weight"], average["0.weight"])
        with pytest.raises(CheckpointError, match="holds no 'emma'"):
            read_given_weights(f"{path}#emma")
    assert read_given_weights(tmp_path / "w#1.pt").tensors.keys() == both.keys()


def test_a_mapping_of_settings_is_no_container(tmp_path: Path) -> None:
    done = filled({"model": {"name": "resnet"}, "weights": dict(WEIGHTS)}, tmp_path)
    assert "'weights'" in done.notes[0]


@pytest.mark.parametrize("first", ["model.", "net.", "module.model.", "zeta."])
@pytest.mark.parametrize("second", ["ema_model.", "network.", "module.teacher.", ""])
def test_a_network_that_is_there_twice_is_refused(first: str, second: str, tmp_path: Path) -> None:
    average = {name: value * 2 for name, value in WEIGHTS.items()}
    said = refused({**prefixed(first), **prefixed(second, average)}, tmp_path)
    assert f"{first}0.weight" in said
    assert f"{second}0.weight" in said
    filled({**prefixed(first), **prefixed(second)}, tmp_path)  # the same tensors twice


def test_names_that_wrappers_use_too_stay_apart(tmp_path: Path) -> None:
    def two() -> nn.Module:
        return nn.ModuleDict({"model": nn.Linear(2, 2), "net": nn.Linear(2, 2)})

    weights = seeded(1, two).state_dict()
    into = seeded(2, two)
    content = prefixed("module.", weights)
    fill_given(into, read_given_weights(stored(tmp_path / "w.pt", content)))
    assert all(torch.equal(value, weights[name]) for name, value in into.state_dict().items())


def test_what_a_larger_module_has_beside_the_network_is_named(tmp_path: Path) -> None:
    done = filled({**prefixed("student."), "loss.weight": torch.ones(3)}, tmp_path)
    assert any("loss.weight" in note for note in done.notes)


def statistics(mean: float, std: float) -> dict[str, Tensor]:
    values = (torch.full((1, 3, 1, 1), value) for value in (mean, std))
    return dict(zip(("0.mu", "0.sigma"), values, strict=True))


def test_the_normalisation_in_a_file_becomes_that_of_a_network_without_one(
    tmp_path: Path,
) -> None:
    into = with_normalization(seeded(2, network), "none")
    content = {**prefixed("1."), **statistics(0.25, 0.5)}
    done = filled(content, tmp_path, into=into)
    assert isinstance(into.normalize, Normalize)
    assert into.normalize.mean.flatten().tolist() == [0.25] * 3
    assert into.normalize.std.flatten().tolist() == [0.5] * 3
    assert any("0.25,0.25,0.25;0.5,0.5,0.5" in note for note in done.notes)


@pytest.mark.parametrize("wrap", [None, "imagenet", "0.5;0.25"])
def test_another_normalisation_is_refused_with_that_of_the_file(
    wrap: str | None, tmp_path: Path
) -> None:
    model = seeded(2, network)
    into = model if wrap is None else with_normalization(model, wrap)
    said = refused({**prefixed("1."), **statistics(0.5, 0.5)}, tmp_path, into=into)
    assert "--normalize '0.5,0.5,0.5;0.5,0.5,0.5'" in said
    own = with_normalization(seeded(2, network), "imagenet").state_dict()
    if wrap == "0.5;0.25":
        assert "0.485" in refused(own, tmp_path, into=into)


def test_a_normalisation_within_the_network_is_loaded_with_it(tmp_path: Path) -> None:
    def normed(mean: float) -> nn.Module:
        return nn.Sequential(Normalize([mean] * 3, [0.2] * 3), *seeded(1, network))

    given = read_given_weights(stored(tmp_path / "w.pt", normed(0.5).state_dict()))
    inner: Any = normed(0.25)
    for into in (inner, with_normalization(inner, "none")):
        fill_given(into, given)
        assert inner[0].mean.flatten().tolist() == [0.5] * 3
        assert sum(isinstance(each, Normalize) for each in into.modules()) == 1


def test_the_normalisation_of_a_larger_module_that_has_it_twice(tmp_path: Path) -> None:
    names = ("module.normalizer.new_mean", "module.attacker.normalize.new_mean")
    stats = {name: torch.full((3, 1, 1), 0.25) for name in names}
    stats |= {name.replace("mean", "std"): torch.full((3, 1, 1), 0.5) for name in names}
    weights = {**prefixed("module.model."), **prefixed("module.attacker.model."), **stats}
    into = with_normalization(seeded(2, network), "imagenet")
    assert "0.25,0.25,0.25;0.5,0.5,0.5" in refused({"model": weights}, tmp_path, into=into)
    weights[names[0]] = weights[names[0]] + 0.25
    assert "several normalisations" in refused({"model": weights}, tmp_path, into=into)


@pytest.mark.parametrize("convert", [torch.tensor, list])
def test_a_normalisation_beside_the_state_is_noticed(convert: Any, tmp_path: Path) -> None:
    content = {"state_dict": dict(WEIGHTS), "mean": convert([0.25] * 3), "std": convert([0.5] * 3)}
    into = with_normalization(seeded(2, network), "imagenet")
    assert "0.25,0.25,0.25;0.5,0.5,0.5" in refused(content, tmp_path, into=into)
    filled(content, tmp_path, into=with_normalization(seeded(2, network), "0.25;0.5"))


@pytest.mark.parametrize(
    "convert",
    [
        lambda value: (100 * value).to(torch.int8),
        lambda value: value > 0,
        lambda value: value.to(torch.complex64),
    ],
)
def test_other_kinds_of_numbers_are_refused(convert: Any, tmp_path: Path) -> None:
    content = {name: convert(value.float()) for name, value in WEIGHTS.items()}
    assert "floating-point" in refused(content, tmp_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_halves_become_the_numbers_of_the_network(kind: torch.dtype, tmp_path: Path) -> None:
    content = {name: value.to(kind) for name, value in WEIGHTS.items()}
    into = seeded(2, network)
    fill_given(into, read_given_weights(stored(tmp_path / "w.pt", content)))
    assert into.state_dict()["0.weight"].dtype == torch.float32
    assert torch.equal(into.state_dict()["0.weight"], content["0.weight"].float())


def test_tied_weights_may_be_there_once_but_must_not_differ(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
        second.weight = first.weight
        return nn.Sequential(first, second)

    weights = dict(seeded(1, tied).state_dict())
    for absent in ("0.weight", "1.weight"):
        into: Any = seeded(2, tied)
        kept = {name: value for name, value in weights.items() if name != absent}
        fill_given(into, read_given_weights(stored(tmp_path / "w.pt", kept)))
        assert all(torch.equal(value, weights[name]) for name, value in into.state_dict().items())
    other = {**weights, "1.weight": weights["1.weight"] + 1}
    with pytest.raises(LratError, match=r"0\.weight and 1\.weight differ"):
        fill_given(seeded(2, tied), read_given_weights(stored(tmp_path / "w.pt", other)))
    untied = seeded(2, lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    with pytest.raises(LratError, match="missing"):
        fill_given(untied, read_given_weights(stored(tmp_path / "w.pt", kept)))


def test_numbers_beside_the_tensors_are_left_out(tmp_path: Path) -> None:
    done = filled({**WEIGHTS, "epoch": 3}, tmp_path)
    assert any("epoch" in note for note in done.notes)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"class_to_idx": {"dog": 0, "cat": 1}}, ("dog", "cat")),
        ({"classes": ["dog", "cat"]}, ("dog", "cat")),
        ({"classes": 2}, ()),
        ({"class_to_idx": {"dog": "0"}}, ()),
    ],
)
def test_the_classes_in_a_checkpoint_are_read(
    about: dict[str, Any], expected: tuple[str, ...], tmp_path: Path
) -> None:
    path = stored(tmp_path / "w.pt", {"state_dict": dict(WEIGHTS), **about})
    assert read_given_weights(path).classes == expected


def test_a_last_layer_for_other_classes_is_refused_or_new(tmp_path: Path) -> None:
    said = refused(dict(WEIGHTS), tmp_path, into=seeded(3, lambda: network(5)))
    assert re.search(r"3 classes there.* 5: train", said)
    into = seeded(3, lambda: network(5))
    before = into.state_dict()["3.weight"].clone()
    done = filled(dict(WEIGHTS), tmp_path, into=into, new_head=True)
    assert set(done.fresh) == {"3.weight", "3.bias"}
    assert torch.equal(into.state_dict()["3.weight"], before)
    assert any("is new" in note for note in done.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {name: WEIGHTS[name] for name in list(WEIGHTS)[:3]},
            ["weights are missing", "1.running_mean"],
        ),
        ({**WEIGHTS, "4.weight": torch.ones(2)}, ["left over", "4.weight"]),
        ({**WEIGHTS, "0.weight": torch.ones(4, 3, 5, 5)}, ["[4, 3, 5, 5]", "[4, 3, 3, 3]"]),
        ({**WEIGHTS, "3.weight": torch.ones(3, 20)}, ["[3, 20]", "[3, 36]"]),
        ({**WEIGHTS, "3.weight": torch.ones(5, 36), "9": torch.ones(2)}, ["left over"]),
        ({"hello": 3}, ["no weights by name", "'hello'"]),
        ([1, 2], ["no weights by name", "list"]),
    ],
)
@pytest.mark.parametrize("new_head", [False, True])
def test_what_does_not_fit_is_named(
    content: Any, words: list[str], new_head: bool, tmp_path: Path
) -> None:
    said = refused(content, tmp_path, new_head=new_head)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", [network(), {"args": argparse.Namespace(lr=1), **WEIGHTS}])
def test_nothing_is_read_that_takes_code(content: Any, legacy: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"^[^\n]*only running code[^\n]*state_dict[^\n]*$"):
        read_given_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "pytorch_model.bin"])
def test_files_of_torch_save_are_read(name: str, legacy: bool, tmp_path: Path) -> None:
    torch.save(dict(WEIGHTS), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert read_given_weights(tmp_path / name).tensors.keys() == WEIGHTS.keys()


def test_a_safetensors_file_is_known_by_its_content(tmp_path: Path) -> None:
    save_file(dict(WEIGHTS), tmp_path / "w.pt")
    assert read_given_weights(tmp_path / "w.pt").tensors.keys() == WEIGHTS.keys()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04damaged", b"\x80\x02}"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        read_given_weights(tmp_path / "w.pt")


def test_a_folder_of_several_files(tmp_path: Path) -> None:
    names = list(WEIGHTS)
    shards = {"a.safetensors": names[:4], "b.safetensors": names[4:]}
    for file, inside in shards.items():
        save_file({name: WEIGHTS[name] for name in inside}, tmp_path / file)
    index = {"weight_map": {name: file for file, inside in shards.items() for name in inside}}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    fill_given(seeded(2, network), read_given_weights(tmp_path))
    for wrong in ({"weight_map": {"a": "../w.safetensors"}}, {"weight_map": 3}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match="index"):
            read_given_weights(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        read_given_weights(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_given_weights(tmp_path / "none.pt")


def test_counters_of_batches_may_be_absent(tmp_path: Path) -> None:
    content = {name: value for name, value in WEIGHTS.items() if "num_batches" not in name}
    model = seeded(2, network)
    fill_given(model, read_given_weights(stored(tmp_path / "w.pt", content)))
    assert torch.equal(model.state_dict()["3.bias"], WEIGHTS["3.bias"])
