"""CIFAR-10, MNIST and Fashion-MNIST from their official files, read by torchvision.

Nothing is downloaded. Every file's MD5 is compared with the official one before it is opened:
CIFAR-10's files are pickles, which may run any code when loaded.
"""

from collections.abc import Mapping
from pathlib import Path

from lrat.data.arrays import Splits, image_data
from lrat.data.subset import VALIDATION_FRACTION, training_parts
from lrat.errors import DataError

_CIFAR10 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
# MD5 of the unpacked files, which torchvision reads; it knows that of the packed ones alone.
_MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_FASHION_MNIST = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def cifar10(
    root: str | Path | None,
    *,
    seed: int = 0,
    validation: float = VALIDATION_FRACTION,
    train_limit: int | None = None,
) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images of 3x32x32 in 10 classes.

    Files: ROOT/cifar-10-batches-py/data_batch_1 to 5, test_batch, batches.meta. The training images
    are first limited to ``train_limit`` (stratified), then ``validation`` of these is held out
    (stratified; 0: none), both by ``seed``. ``index`` counts in the official order of each part.
    Raises DataError for missing or damaged files, which it names.
    """
    return _splits("CIFAR10", "cifar-10-batches-py", _CIFAR10, root, seed, validation, train_limit)


def mnist(
    root: str | Path | None,
    *,
    seed: int = 0,
    validation: float = VALIDATION_FRACTION,
    train_limit: int | None = None,
) -> Splits:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 images of 1x28x28 in 10 classes.

    Files: ROOT/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, unpacked. The rest is as in
    ``cifar10``.
    """
    return _splits("MNIST", "MNIST/raw", _MNIST, root, seed, validation, train_limit)


def fashion_mnist(
    root: str | Path | None,
    *,
    seed: int = 0,
    validation: float = VALIDATION_FRACTION,
    train_limit: int | None = None,
) -> Splits:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 images of 1x28x28 in 10 classes.

    Files: ROOT/FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, unpacked. The rest is
    as in ``cifar10``.
    """
    return _splits(
        "FashionMNIST", "FashionMNIST/raw", _FASHION_MNIST, root, seed, validation, train_limit
    )


def _splits(
    dataset: str,
    folder: str,
    files: Mapping[str, str],
    root: str | Path | None,
    seed: int,
    validation: float,
    train_limit: int | None,
) -> Splits:
    from torchvision import datasets

    if root is None:
        raise DataError(
            f"{dataset} needs the folder of its official files: set data.root (--data-root ROOT)"
        )
    _check_files(dataset, Path(root), folder, files)
    parts = []
    for part, train in (("train", True), ("test", False)):
        source = getattr(datasets, dataset)(str(root), train=train, download=False)
        digits = dataset == "MNIST"
        names = tuple(map(str, range(10))) if digits else tuple(map(str, source.classes))
        parts.append(
            image_data(source.data, source.targets, class_names=names, name=f"{dataset} ({part})")
        )
    train_part, held = training_parts(
        parts[0], train_limit=train_limit, validation=validation, seed=seed
    )
    return Splits(train=train_part, validation=held, test=parts[1])


def _check_files(dataset: str, root: Path, folder: str, files: Mapping[str, str]) -> None:
    from torchvision.datasets.utils import check_integrity

    path = root / folder
    missing = [name for name in files if not (path / name).is_file()]
    if missing:
        unpacked = "" if dataset == "CIFAR10" else ", unpacked (gunzip)"
        lacking = f"only {len(files) - len(missing)} of its files" if path.is_dir() else "no folder"
        raise DataError(
            f"{dataset}: {lacking} found at {path}: put the official {', '.join(missing)} "
            f"there{unpacked}, or set data.root (--data-root) to the folder that holds {folder}"
        )
    for name, digest in files.items():
        if not check_integrity(str(path / name), digest):
            raise DataError(
                f"{dataset}: {path / name} is damaged or not the official file (its MD5 is not "
                f"{digest}): fetch it again"
            )
