import pytest
import torch
from torch import nn

from builders import seeded
from lrat import hardware
from lrat.acceleration import View, accelerate
from lrat.distributed.group import synchronised
from lrat.distributed.launch import check_devices
from lrat.errors import ConfigurationError
from lrat.models import SmallCNN

CUDA = torch.device("cuda")
"""Of a device alone; nothing is computed there."""


def small() -> nn.Module:
    return seeded(0, lambda: SmallCNN(channels=1, size=8, classes=10, width=4))


def test_synchronised_batch_norm_keeps_every_name_and_tensor() -> None:
    network = small()
    before = dict(network.state_dict())
    changed = synchronised(network, CUDA, 2)
    assert {name: value.data_ptr() for name, value in changed.state_dict().items()} == {
        name: value.data_ptr() for name, value in before.items()
    }
    kinds = [type(module) for module in changed.modules()]
    assert kinds.count(nn.SyncBatchNorm) == 3
    assert nn.BatchNorm2d not in kinds


def test_attacks_see_it_folded_as_any_batch_norm() -> None:
    images = torch.rand((16, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    view = accelerate(synchronised(small(), CUDA, 2), images)
    assert isinstance(view, View)
    assert view.choices == accelerate(small(), images).choices
    plain = small().eval()
    with torch.no_grad():
        torch.testing.assert_close(view(images), plain(images))


def test_one_process_has_nothing_to_synchronise() -> None:
    network = small()
    assert synchronised(network, CUDA, 1) is network
    with pytest.raises(ConfigurationError, match="this is cpu: leave it out"):
        synchronised(network, torch.device("cpu"), 2)


def test_who_only_starts_others_takes_no_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process that uses one takes some hundred megabytes of it."""

    def use(name: str) -> torch.device:
        raise AssertionError(f"{name} is used")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "device", use)
    for name in ("auto", "cuda"):
        check_devices(name, 2, 1)
        with pytest.raises(ConfigurationError, match=r"^devices 3: choose from 1 to 2, the cuda "):
            check_devices(name, 3, 1)
    with pytest.raises(
        ConfigurationError, match=r"^device cuda:1 is one of them and devices takes"
    ):
        check_devices("cuda:1", 2, 1)
    with pytest.raises(AssertionError, match=r"^cuda:2 is used$"):  # which refuses it
        check_devices("cuda:2", 2, 1)
