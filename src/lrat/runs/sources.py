"""A model with its images, of a run or of a file: to attack, to analyse, to measure curves on.

The images of an analysis are the very ones that the run was trained or tested on. How attacks saw a
model is kept, so that a later call sees it in the same way.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import nn

from lrat.acceleration import Choices, View, describe
from lrat.config import build
from lrat.config.model_code import program_of
from lrat.config.settings import DataSettings, RunConfig, load_config
from lrat.config.user_code import code_of, model_from_file
from lrat.data import ImageData
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation.storage.fingerprint import Program, differs_in_code, read_fingerprint
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_json, read_record
from lrat.files.write import write_if_new
from lrat.runs.folder import ACCELERATION, CONTENTS, EVALUATIONS, OFF, evaluated, read_config
from lrat.runs.weights import fill, load_weights, read_safetensors, weights_digest
from lrat.threat import Ball, as_ball

Part = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in hand: ``test`` are the images that it is attacked on, inside ``threat``.

    ``label`` says which of a run's weights these are; ``evaluations`` is where evidence goes, None
    for nowhere; ``config`` is a run's own, or what can be said of somebody's model.
    """

    name: str
    label: str
    network: nn.Module
    test: ImageData
    threat: Ball
    config: RunConfig
    evaluations: Path | None

    @cached_property
    def identity(self) -> dict[str, str]:
        """``model_identity`` of the network, read once: what is attacked is not trained on."""
        return model_identity(self.network)

    @cached_property
    def program(self) -> Program:
        """The code of the network."""
        return program_of(self.network)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """As many processor threads as the run took; for somebody's model as many as there are."""
        if self.label == EXTERNAL:
            yield
            return
        with build.threads(self.config):
            yield


EXTERNAL = "model"
_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a subject comes from: a run folder, or ``FILE.py:FUNCTION`` with weights and data.

    ``data`` and ``data_root`` say for a run where its data lie now, if they were moved; ``out``
    takes the evidence about somebody's model.
    """

    run: Path | None = None
    checkpoint: str = "selected"
    model_file: str | None = None
    weights: Path | None = None
    data: str | None = None
    data_root: str | None = None
    out: Path | None = None

    def load(self, threat: str | None = None) -> LoadedModel:
        """The model with its weights, and its images; ``threat`` None is the one trained for.

        Raises ``ConfigurationError`` where it is not clear what is meant.
        """
        if self.run is not None and not (self.model_file or self.weights or self.out):
            return self._of_run(self.run, threat)
        if self.model_file is None or self.run is not None:
            raise ConfigurationError(
                "name either a run folder, whose model and data are known, or --model-file "
                "FILE.py:FUNCTION with --data, --weights and --out"
            )
        if self.data is None:
            raise ConfigurationError("--model-file needs --data, as npz:test.npz or cifar10")
        return self._of_file(self.model_file, self.data, threat)

    def _of_run(self, run: Path, threat: str | None) -> LoadedModel:
        config = read_config(run)
        moved = {"name": self.data, "root": self.data_root}
        place = config.data.model_copy(update={k: v for k, v in moved.items() if v is not None})
        config = config.model_copy(update={"data": place})
        whole = {"validation": 0.0, "train_limit": None}  # the test part is the same for all
        splits = build.data(config.data.model_copy(update=whole), config.seed)
        network = build.model(config, splits.test.shape, splits.test.classes)
        fill(network, load_weights(run, config, self.checkpoint), f"{run} ({self.checkpoint})")
        return LoadedModel(
            name=str(run),
            label=self.checkpoint,
            network=network.eval(),
            test=splits.test,
            threat=as_ball(threat or config.threat),
            config=config,
            evaluations=run / EVALUATIONS,
        )

    def _of_file(self, model_file: str, data: str, threat: str | None) -> LoadedModel:
        config = load_config(
            {"data": {"name": data, "root": self.data_root}, "model": {"name": model_file}},
            {} if threat is None else {"threat": threat},
        )
        settings = DataSettings(name=data, root=self.data_root, validation=0)
        splits = build.data(settings, seed=0)
        network = model_from_file(model_file, seed=0)
        if self.weights is not None:
            fill(network, read_safetensors(self.weights, follow=True), str(self.weights))
        return LoadedModel(
            name=model_file,
            label=EXTERNAL,
            network=network.eval(),
            test=splits.test,
            threat=as_ball(config.threat),
            config=config,
            evaluations=self.out,
        )


def model_identity(network: nn.Module) -> dict[str, str]:
    """What tells a model from others: ``model``, its weights' digest, and for one from a user's
    own file ``code``, the file's. Everything that is kept about a model is kept under both."""
    code = code_of(network)
    weights = {"model": weights_digest(network.state_dict())}
    return weights if code is None else {**weights, "code": code}


def own_folder(folder: Path, identity: Mapping[str, str], program: Program) -> Path:
    """``folder``, or one named after it where that was begun for something else: for other weights
    (a run that trained on), or for another version of the user's code."""
    for key, own in identity.items():
        if evaluated(folder, key) not in (None, own):
            folder = folder.with_name(f"{folder.name}-{own[:_DIGITS]}")
    stored = read_fingerprint(folder)
    if stored is not None and differs_in_code(stored, program):
        folder = folder.with_name(f"{folder.name}-{program.digest()[:_DIGITS]}")
    return folder


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


def record_choices(folder: Path, view: nn.Module) -> None:
    """Write how attacks see the model, so that whoever continues sees it the same way."""
    if isinstance(view, View):
        about = {"choices": str(view.choices), "in_words": describe(view)}
        write_if_new(folder / ACCELERATION, about)


def recorded_choices(folder: Path) -> Choices | None:
    """What ``record_choices`` wrote into a run's folder; None where nothing was."""
    return _stored_choices(folder / ACCELERATION, "choices")


def evaluated_choices(folder: Path | None) -> Choices | None:
    """How an evaluation that was begun in ``folder`` sees the model; None for a new one."""
    if folder is None:
        return None
    return _stored_choices(folder / "identity.json", "acceleration")


def _stored_choices(path: Path, key: str) -> Choices | None:
    if not is_there(path):
        return None
    try:
        text = read_json(path)[key]
        return None if text == OFF else Choices.parse(text)
    except (OSError, *NOT_AS_WRITTEN):
        raise RunFolderError(f"{path} is damaged: choose another folder") from None
