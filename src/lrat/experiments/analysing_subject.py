"""What is analysed: a run's weights, and the very images that it was trained or tested on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from lrat.config import build
from lrat.config.settings import RunConfig
from lrat.data import ImageData
from lrat.errors import ConfigurationError, RunFolderError
from lrat.files.read import read_record
from lrat.runs.folder import CONTENTS, read_config
from lrat.runs.weights import fill, load_weights

Part = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """A run's model and the images of one of its parts."""

    run: Path
    config: RunConfig
    network: nn.Module
    images: ImageData
    classes: int


def open_run(
    run: Path, checkpoint: str, part: Part, *, data: str | None, data_root: str | None
) -> Analysed:
    """The model with the weights called ``checkpoint``, and the run's images.

    ``data`` and ``data_root``: where the run's data lie now, if they were moved. Raises
    ``CheckpointError`` for weights that are not there and ``RunFolderError`` for images that are
    not those that the run had.
    """
    config = read_config(run)
    if part not in {"train", "test"}:
        raise ConfigurationError(f"part {part!r}: analyse train or test")
    weights = load_weights(run, config, checkpoint)
    moved = {"name": data, "root": data_root}
    place = config.data.model_copy(update={k: v for k, v in moved.items() if v is not None})
    config = config.model_copy(update={"data": place})
    splits = build.data(config.data, config.seed)
    images = splits.training() if part == "train" else splits.test
    _check_images(run, part, images)
    network = build.model(config, images.shape, images.classes)
    fill(network, weights, f"{run} ({checkpoint})")
    classes = build.check_fit(network, images)
    return Analysed(run=run, config=config, network=network, images=images, classes=classes)


def _check_images(run: Path, part: Part, images: ImageData) -> None:
    """Image numbers of other data would join weights and views of different images."""
    # An earlier version kept no digests.
    stored = read_record(run / CONTENTS, "bring it back", may_lack=True).get(part)
    if stored is not None and stored != images.digest():
        raise RunFolderError(
            f"{images.name}: these are not the {part} images that {run} had: bring them back, or "
            "name their place by --data or --data-root"
        )
