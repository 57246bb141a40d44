"""A model with its images, of a run or of a file: to attack, to analyse, to measure curves on.

The images of an analysis are the very ones that the run was trained or tested on. How attacks saw a
model is kept, so that a later call sees it in the same way.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lrat.acceleration import Choices, View, describe
from lrat.config import build
from lrat.config.catalogue import names_users_code, place_in
from lrat.config.model_code import program_of
from lrat.config.settings import RunConfig, load_config
from lrat.config.user_code import code_of
from lrat.data import ImageData
from lrat.errors import ConfigurationError, ModelError, RunFolderError
from lrat.evaluation.storage.fingerprint import Program, differs_in_code, read_fingerprint
from lrat.files.names import ACCELERATION, CONTENTS, EVALUATIONS, IDENTITY, MODEL
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_json, read_record
from lrat.files.write import write_if_new
from lrat.models import Normalized
from lrat.runs.fill_given import fill_given
from lrat.runs.folder import OFF, evaluated, read_config
from lrat.runs.given_weights import read_given_weights
from lrat.runs.weights import fill, load_weights, weights_digest
from lrat.text import cut
from lrat.threat import Ball, as_ball

Part = Literal["train", "test"]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded model: ``images`` are those that it is attacked on, inside ``threat``.

    ``label`` says which of a run's weights these are; ``classes``: how many it tells apart;
    ``evaluations`` is where evidence goes, None for nowhere; ``config`` is a run's, or what can be
    said of a user's model.
    """

    name: str
    label: str
    network: nn.Module
    images: ImageData
    classes: int
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

    def threads(self) -> AbstractContextManager[None]:
        """As many processor threads as the run took; for a user's model as many as there are."""
        return build.threads(self.config)


EXTERNAL = "model"
_DIGITS = 8
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model and its images come from: a run folder, or a model's name, weights and data.

    ``model``: as in a configuration, ``FILE.py:FUNCTION``, ``timm:NAME``, ...; ``weights``: its
    FILE or FILE#KEY; ``normalize``, ``size`` and ``channels`` as in a configuration. ``data`` and
    ``data_root`` say for a run where its data lie now, if they were moved; ``out`` takes the
    evidence about a model that belongs to no run.
    """

    run: Path | None = None
    checkpoint: str = "selected"
    model: str | None = None
    weights: str | Path | None = None
    normalize: str | None = None
    data: str | None = None
    data_root: str | None = None
    size: int | None = None
    channels: int | None = None
    out: Path | None = None

    def load(self, threat: str | None = None, *, part: Part = "test") -> LoadedModel:
        """The model with its weights, and its images; ``threat`` None is the one trained for.

        Raises ``ConfigurationError`` where it is not clear what is meant, ``CheckpointError`` for
        weights that are not there, and ``ModelError`` for a model that does not fit the images.
        """
        of_no_run = (self.model, self.weights, self.normalize, self.size, self.channels, self.out)
        if self.run is not None and all(each is None for each in of_no_run):
            config, name, label = self._configuration_of(self.run), str(self.run), self.checkpoint
            weights: Mapping[str, Any] | None = load_weights(self.run, config, label)
            evaluations: Path | None = self.run / EVALUATIONS
        else:
            config = self._configuration_of_model(threat)
            name, label, evaluations = config.model.name, EXTERNAL, self.out
            weights = None
        data = config.data
        if part == "test":  # which is the same for every division of the others
            data = data.model_copy(update={"validation": 0.0, "train_limit": None})
        splits = build.data(data, config.seed)
        images = splits.training() if part == "train" else splits.test
        network = build.model(config, images.shape, images.classes)
        if self.run is None or weights is None:
            with_given_weights(network, config, images.class_names)
        else:
            fill(network, weights, f"{name} ({label})")
            if part == "test":
                _compare_images(self.run, images)
        return LoadedModel(
            name=name,
            label=label,
            network=network.eval(),
            images=images,
            classes=build.check_fit(network, images),
            threat=as_ball(threat or config.threat),
            config=config,
            evaluations=evaluations,
        )

    def _configuration_of(self, run: Path) -> RunConfig:
        config = read_config(run)
        moved = {"name": self.data, "root": self.data_root}
        data = config.data.model_copy(update={k: v for k, v in moved.items() if v is not None})
        return config.model_copy(update={"data": data})

    def _configuration_of_model(self, threat: str | None) -> RunConfig:
        """What can be said of a model that belongs to no run."""
        if self.model is None or self.run is not None:
            raise ConfigurationError(
                "name either a run folder, whose model and data are known, or --model (as "
                "FILE.py:FUNCTION or timm:NAME) with --data, --weights and --out"
            )
        if self.data is None:
            raise ConfigurationError("--model needs --data, as folder:photos or cifar10")
        weights = None if self.weights is None else str(self.weights)
        return load_config(
            {
                "data": {
                    "name": self.data,
                    "root": self.data_root,
                    "size": self.size,
                    "channels": self.channels,
                },
                "model": {"name": self.model, "normalize": self.normalize, "weights": weights},
            },
            {} if threat is None else {"threat": threat},
        )


def with_given_weights(
    network: nn.Module, config: RunConfig, class_names: Sequence[str], *, new_head: bool = False
) -> str | None:
    """Load the weights that the configuration names into ``network``, and say what was done. Their
    digest, without that of a new last layer; None for weights that are drawn, or a user's file's.

    ``class_names``: of the data. ``new_head``: it will be trained, so that its last layer may be
    new, or without any. Raises ``ModelError`` for weights that do not fit, where some are lacking,
    and for classes in another order.
    """
    name, weights = config.model.name, config.model.weights
    inner: Any = network.network if isinstance(network, Normalized) else network
    if weights is not None:
        given = read_given_weights(weights)
        filled = fill_given(network, given, new_head=new_head)
        fresh, classes = filled.fresh, given.classes
        for note in filled.notes:
            _logger.warning("%s", note)
    elif place_in(name):
        fresh = network.fresh if isinstance(network, Normalized) else ()
        classes = tuple(map(str, getattr(inner.config, "id2label", {}).values()))
        if fresh:
            layer = fresh[0].removeprefix("network.").rpartition(".")[0]
            if not new_head:
                raise ModelError(
                    f"model {name}: its last layer, {layer}, is for other classes than the data: "
                    "train it on them first (lrat train)"
                )
            _logger.warning(
                "model %s: its last layer, %s, is new, for the classes of the data", name, layer
            )
    elif new_head or names_users_code(name):
        return None
    else:
        raise ModelError(f"model {name} comes without weights: name their file by --weights")
    if not fresh:
        check_order(classes, class_names, weights or name)
    kept = {name: value for name, value in network.state_dict().items() if name not in fresh}
    return weights_digest(kept)


def check_order(stated: Sequence[str], class_names: Sequence[str], origin: str) -> None:
    """``ModelError`` where a model's classes are those of the data in another order, so that every
    image would count as another class."""
    ours, theirs = ([name.casefold() for name in names] for names in (class_names, stated))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise ModelError(
            f"{origin}: its classes are in the order {_listed(stated)}, those of the data in the "
            f"order {_listed(class_names)}: rename the data's classes so that they sort in the "
            "model's order, as 0-NAME, 1-NAME"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(cut, names[:_NAMED])) + ", ..." * (len(names) > _NAMED)


def model_identity(network: nn.Module) -> dict[str, str]:
    """What tells a model from others: ``model``, its weights' digest, and for one from a user's
    file ``code``, the file's. Everything that is kept about a model is kept under both."""
    code = code_of(network)
    weights = {"model": weights_digest(network.state_dict())}
    return weights if code is None else {**weights, "code": code}


def own_folder(folder: Path, identity: Mapping[str, str], program: Program) -> Path:
    """``folder``, or one named after it where that was begun for something else: for other weights
    (a run that trained on), or for another version of the user's code."""
    for key, digest in identity.items():
        if evaluated(folder, key) not in (None, digest):
            folder = folder.with_name(f"{folder.name}-{digest[:_DIGITS]}")
    stored = read_fingerprint(folder)
    if stored is not None and differs_in_code(stored, program):
        folder = folder.with_name(f"{folder.name}-{program.digest()[:_DIGITS]}")
    return folder


def _compare_images(run: Path, images: ImageData) -> None:
    """Say where a run's model is tested on others than the run had; ``ModelError`` where these have
    the run's classes in another order."""
    about = read_record(run / MODEL, "bring it back", may_lack=True)
    check_order([str(each) for each in about.get("class_names", ())], images.class_names, str(run))
    stored = read_record(run / CONTENTS, "bring it back", may_lack=True).get("test")
    if stored is not None and stored != images.digest():
        _logger.warning(
            "%s: these are not the test images that %s had; where files were added to or removed "
            "from a folder without a test part, it may have been trained on some of these",
            images.name,
            run,
        )


def check_images(run: Path, part: Part, images: ImageData) -> None:
    """``RunFolderError`` for others than the run had: image numbers of other data would join
    weights and views of different images."""
    # An earlier version kept no digests.
    stored = read_record(run / CONTENTS, "bring it back", may_lack=True).get(part)
    if stored is not None and stored != images.digest():
        raise RunFolderError(
            f"{images.name}: these are not the {part} images that {run} had: bring them back, or "
            "name their path by --data or --data-root"
        )


def choices_in(view: nn.Module) -> str:
    """How attacks see the model, as identities say it."""
    return str(view.choices) if isinstance(view, View) else OFF


def record_choices(folder: Path, view: nn.Module) -> None:
    """Write how attacks see the model, so that a later call sees it the same way."""
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
    return _stored_choices(folder / IDENTITY, "acceleration")


def _stored_choices(path: Path, key: str) -> Choices | None:
    if not is_there(path):
        return None
    try:
        text = read_json(path)[key]
        return None if text == OFF else Choices.parse(text)
    except (OSError, *NOT_AS_WRITTEN):
        raise RunFolderError(f"{path} is damaged: choose another folder") from None
