"""Networks of other libraries: their sizes, their normalisation, and one line for what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import saved_vit, seeded
from lrat.errors import LratError, ModelError, SettingError, UnknownNameError
from lrat.models import (
    Normalize,
    Normalized,
    from_hf,
    from_timm,
    from_torchvision,
    preact_resnet_18,
    resnet_50,
    vit_tiny,
    wide_resnet_28,
    wide_resnet_34,
    with_normalization,
)
from lrat.outputs import forward_logits

IMAGENET = [pytest.approx(each) for each in (0.485, 0.456, 0.406)]


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def logits(network: nn.Module, **shape: int) -> Tensor:
    with torch.no_grad():
        return forward_logits(network.eval(), images(**shape))


def mean_of(network: Normalized) -> list[float]:
    assert isinstance(network.normalize, Normalize)
    return network.normalize.mean.flatten().tolist()


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (preact_resnet_18, 11_172_170),
        (wide_resnet_28, 36_479_194),
        (wide_resnet_34, 46_160_474),
        (lambda: resnet_50(classes=1000), 25_557_032),
        (lambda: vit_tiny(classes=1000, size=224), 5_717_416),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(
    build: Callable[[], nn.Module], count: int
) -> None:
    with torch.device("meta"):
        assert parameters(build()) == count


def test_a_preactivation_network_of_another_width_and_channels() -> None:
    network = seeded(0, lambda: preact_resnet_18(channels=1, classes=3, width=4))
    assert logits(network, channels=1, size=12).shape == (2, 3)
    with pytest.raises(ModelError, match="PreActResNet takes images"):
        network(images())


@pytest.mark.parametrize("size", [32, 56])
def test_vit_tiny_takes_images_of_its_size(size: int) -> None:
    network = seeded(0, lambda: vit_tiny(classes=4, size=size, channels=1))
    assert logits(network, channels=1, size=size).shape == (2, 4)
    with pytest.raises(SettingError, match="multiple of 8"):
        vit_tiny(classes=4, size=33)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_torchvision(channels: int) -> None:
    network = seeded(0, lambda: from_torchvision("resnet18", classes=5, channels=channels))
    assert logits(network, channels=channels).shape == (2, 5)
    expected = IMAGENET if channels == 3 else [pytest.approx(sum((0.485, 0.456, 0.406)) / 3)]
    assert mean_of(network) == expected


def test_further_classifiers_in_train_mode_are_left_out() -> None:
    network = seeded(0, lambda: from_torchvision("googlenet", classes=3)).train()
    with torch.random.fork_rng():
        assert network(images(size=64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "expected"), [("test_resnet", [0.5] * 3), ("test_vit", [0.5] * 3), ("resnet10t", None)]
)
def test_a_network_of_timm(name: str, expected: list[float] | None) -> None:
    pytest.importorskip("timm")
    network = seeded(0, lambda: from_timm(name, classes=5, size=32))
    assert logits(network).shape == (2, 5)
    assert mean_of(network) == (expected or IMAGENET)


def test_options_reach_timm_and_normalisation_can_be_chosen() -> None:
    pytest.importorskip("timm")
    network = seeded(
        0, lambda: from_timm("test_vit", classes=5, size=32, normalize="none", depth=1)
    )
    assert isinstance(network.normalize, nn.Identity)
    assert len(network.network.blocks) == 1
    grey = seeded(0, lambda: from_timm("test_resnet", classes=5, channels=1, normalize="cifar10"))
    assert mean_of(grey) == [pytest.approx((0.4914 + 0.4822 + 0.4465) / 3)]
    assert logits(grey, channels=1).shape == (2, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT as transformers saves it, with its preprocessing."""
    pytest.importorskip("transformers")
    return saved_vit(tmp_path_factory.mktemp("hf"), classes=5)


def test_a_folder_of_transformers_comes_with_its_weights_and_normalisation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (seeded(n, lambda: from_hf(folder, classes=5)) for n in (1, 2))
    assert mean_of(first) == [0.25] * 3
    assert first.fresh == ()
    torch.testing.assert_close(logits(first), logits(second), rtol=0, atol=0)
    with torch.no_grad():
        stated = first.network((images() - 0.25) / 0.5).logits
    torch.testing.assert_close(logits(first), stated)
    assert capsys.readouterr() == ("", "")


def test_other_classes_give_a_folder_of_transformers_a_new_last_layer(folder: Path) -> None:
    network = seeded(1, lambda: from_hf(folder, classes=3))
    assert logits(network).shape == (2, 3)
    assert set(network.fresh) == {"network.classifier.weight", "network.classifier.bias"}


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (lambda: from_torchvision("resnet19", classes=3), UnknownNameError, "'resnet18'"),
        (lambda: from_torchvision("resnet18", classes=3, odd=1), SettingError, "odd"),
        (lambda: from_hf("nowhere"), ModelError, "config.json"),
        (lambda: with_normalization(nn.Flatten(), "imagnet"), SettingError, "imagenet"),
        (lambda: with_normalization(nn.Flatten(), "0.5"), SettingError, "MEAN"),
        (lambda: with_normalization(nn.Flatten(), "0.5;0"), SettingError, "std"),
        (lambda: with_normalization(nn.Flatten(), "imagenet", 4), SettingError, "4"),
        (lambda: with_normalization(nn.Flatten(), "127;64"), SettingError, "255"),
    ],
)
def test_what_is_wrong_is_one_line(build: Any, kind: type[LratError], words: str) -> None:
    with pytest.raises(kind) as caught:
        build()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: from_timm("resnet19", classes=3), "'resnet18'"),
        (lambda: from_timm("resnet18.a9", classes=3), "a9"),
        (lambda: from_timm("test_resnet", classes=3, odd=1), "odd"),
    ],
)
def test_what_timm_does_not_know_is_one_line(build: Any, words: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SettingError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("normalize", ["0.5;0.25", ((0.5,), (0.25,)), "0.5,0.5,0.5;.25,.25,.25"])
def test_images_are_normalised_as_said(normalize: Any) -> None:
    network = with_normalization(nn.Flatten(), normalize)
    torch.testing.assert_close(network(images()), ((images() - 0.5) / 0.25).flatten(1))
    named = with_normalization(nn.BatchNorm1d(2), "none").state_dict()
    assert all(name.startswith("network.") for name in named)
