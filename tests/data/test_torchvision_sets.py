"""The official files: read in order where they are there, one clear line where they are not."""

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lrat.data import Splits, cifar10, fashion_mnist, mnist
from lrat.errors import DataError

OFFICIAL = Path(__file__).resolve().parents[3] / "shared" / "data"
FASHION = OFFICIAL / "fashion_mnist"
Loader = Callable[..., Splits]


@pytest.fixture(scope="session")
def fashion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = sorted(FASHION.glob("*.gz"))
    if len(packed) != 4:
        pytest.skip(f"the official Fashion-MNIST files are not in {FASHION}")
    root = tmp_path_factory.mktemp("official")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in packed:
        with gzip.open(file) as source, (raw / file.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    return root


def refusal(load: Loader, root: Path | None) -> str:
    with pytest.raises(DataError) as caught:
        load(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fashion_mnist_is_read_whole_and_in_order(fashion_root: Path) -> None:
    splits = fashion_mnist(fashion_root, validation=0)
    train = splits.training()
    assert splits.validation is None
    assert (len(train), len(splits.test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert torch.equal(train.index, torch.arange(60_000))
    assert train.labels.bincount().tolist() == [6000] * 10
    with gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as file:
        assert bytes(train.labels.to(torch.uint8).tolist()) == file.read()[8:]
    with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
        assert splits.test.images.numpy().tobytes() == file.read()[16:]
    assert train.class_names[:2] == ("T-shirt/top", "Trouser")


def test_the_limit_comes_before_the_hold_out(fashion_root: Path) -> None:
    whole = fashion_mnist(fashion_root, validation=0).training()
    splits = fashion_mnist(fashion_root, seed=1, train_limit=1000, validation=0.2)
    train, held = splits.training(), splits.validation
    assert held is not None
    assert train.labels.bincount().tolist() == [80] * 10
    assert held.labels.bincount().tolist() == [20] * 10
    assert not set(train.index.tolist()) & set(held.index.tolist())
    for part in (train, held):
        assert torch.equal(part.images, whole.images[part.index])
        assert torch.equal(part.labels, whole.labels[part.index])
    assert len(splits.test) == 10_000


def test_a_damaged_file_is_named(fashion_root: Path, tmp_path: Path) -> None:
    source = fashion_root / "FashionMNIST" / "raw"
    raw = tmp_path / "FashionMNIST" / "raw"
    shutil.copytree(source, raw)
    labels = bytearray((raw / "t10k-labels-idx1-ubyte").read_bytes())
    labels[50] ^= 1
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels)
    message = refusal(fashion_mnist, tmp_path)
    assert "t10k-labels-idx1-ubyte is damaged" in message


@pytest.mark.parametrize(
    ("load", "folder", "files"),
    [
        (cifar10, "cifar-10-batches-py", ("data_batch_1", "data_batch_5", "test_batch")),
        (mnist, "MNIST/raw", ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
        (fashion_mnist, "FashionMNIST/raw", ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")),
    ],
)
def test_missing_files_are_named_with_their_place(
    load: Loader, folder: str, files: tuple[str, ...], tmp_path: Path
) -> None:
    message = refusal(load, tmp_path)
    assert str(tmp_path / folder) in message
    for file in files:
        assert file in message
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / files[0]).touch()
    partial = refusal(load, tmp_path)
    assert files[0] not in partial
    assert files[-1] in partial
    assert "--data-root" in refusal(load, None)


def test_a_pickle_that_is_not_the_official_one_is_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{number}" for number in range(1, 6)]
    for name in [*names, "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert "data_batch_1 is damaged" in refusal(cifar10, tmp_path)


@pytest.mark.soak
def test_cifar10_and_mnist_are_read_whole(tmp_path: Path) -> None:
    script = OFFICIAL / "write_official.py"
    if not script.is_file():
        pytest.skip(f"{script} is not there to write the official CIFAR-10 files")
    command = [sys.executable, "-B", script.name, str(tmp_path)]
    subprocess.run(command, cwd=OFFICIAL, check=True, capture_output=True)
    colour, grey = cifar10(tmp_path), mnist(tmp_path)
    assert (len(colour.training()), len(colour.test)) == (42_500, 10_000)
    assert (colour.test.shape, grey.test.shape) == ((3, 32, 32), (1, 28, 28))
    assert colour.test.class_names[colour.test.labels[0]] == "cat"
    assert colour.test.labels.bincount().tolist() == [1000] * 10
    assert grey.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    # The first test image's top-left pixel, as the official page shows it.
    assert colour.test.images[0, :, 0, 0].tolist() == [158, 112, 49]
