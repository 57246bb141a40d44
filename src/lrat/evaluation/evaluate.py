"""Run a suite on a model: the one place where an image is declared fooled."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.acceleration import evaluating
from lrat.attacks.base import Variant
from lrat.errors import DataError, ModelError, NonFiniteError, RegionViolationError, SettingError
from lrat.evaluation.forward import classify, warn_of_probabilities
from lrat.evaluation.outcomes import UNKNOWN, Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.storage import Identity, OutcomeStore
from lrat.evaluation.suites import NATURAL, Member, Suite, describe_threat
from lrat.losses import logit_margin
from lrat.passes import PassCounter
from lrat.randomness import Keyed, keys
from lrat.threat import Ball, Region
from lrat.types import Batch


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where an evaluation stands: ``done`` images finished under ``attack``, ``robust`` of them.

    ``total``: how many there are, None where the batches do not tell.
    """

    attack: str
    done: int
    robust: int
    total: int | None = None


@runtime_checkable
class _Sized(Protocol):
    """Batches that know how many images they hold, or that nobody does."""

    @property
    def size(self) -> int | None: ...


def evaluate_suite(
    model: nn.Module,
    batches: Iterable[Batch],
    suite: Suite,
    *,
    seed: int = 0,
    view: nn.Module | None = None,
    folder: Path | None = None,
    identity: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    device: torch.device | str | None = None,
) -> EvaluationResult:
    """Attack the images of ``batches`` with every member of ``suite`` and keep what happened.

    An image that is wrong when clean counts as not robust and is not attacked: the clean image
    itself lies in the region. Every member attacks all other images, independently of the other
    members, with noise from (seed, image index, member name) alone, so verdicts do not depend on
    how the data are split into batches. An image counts as fooled only after a float32, eval-mode
    forward of ``model`` on the returned image, which must lie in the suite's region.

    ``view``: what attacks see in place of ``model`` (an accelerated one); verdicts stay with
    ``model``. ``device``: where images go, by default where the model is; the model is not moved.
    ``on_progress`` is called after each batch of each attack; it learns the number of images from
    the ``size`` of ``batches``, where they have one.
    With ``folder``, each batch of each attack is written when done, and the same call continues
    from there, also with other batches. ``identity`` guards that folder: strings that name the
    model (its digest) and under ``data`` the data set (before any limit on the number of images);
    suite, threat, attacks and seed are added here.

    Raises ``RegionViolationError`` (attack, image, excess), ``NonFiniteError`` (attack, image),
    ``ModelError``, ``DataError``, and ``RunFolderError`` for a folder of another identity. The
    modes of the model's modules are as before, also after an error.
    """
    full_identity = _identity(suite, seed, identity)
    store = OutcomeStore.open(folder, full_identity)
    run = _Run(
        model=model,
        view=model if view is None else view,
        suite=suite,
        seed=seed,
        store=store,
        device=_device_of(model) if device is None else torch.device(device),
    )
    chunks: list[Outcomes] = []
    seen: set[int] = set()
    tally = {name: [0, 0] for name in suite.names}
    total = batches.size if isinstance(batches, _Sized) else None
    with evaluating(model), evaluating(run.view):
        for number, batch in enumerate(batches):
            _note_images(batch, seen)
            for outcomes in run.outcomes_of(batch, first=number == 0):
                chunks.append(outcomes)
                if on_progress is not None:
                    name = str(outcomes.attack[0])
                    tally[name][0] += len(outcomes)
                    tally[name][1] += int((~outcomes.fooled).sum())
                    done, robust = tally[name]
                    on_progress(Progress(attack=name, done=done, robust=robust, total=total))
    if not seen:
        raise DataError("there are no images to evaluate: the data source is empty")
    result = EvaluationResult(
        outcomes=Outcomes.concatenate(chunks).arranged(suite.names), identity=full_identity
    )
    store.finish(result.summary(), result.index)
    return result


def _identity(suite: Suite, seed: int, extra: Mapping[str, str] | None) -> Identity:
    own: Identity = {
        "suite": suite.name,
        "threat": describe_threat(suite.threat),
        "tolerance": suite.threat.tolerance,
        "seed": seed,
        "attacks": {member.name: member.description for member in suite.members},
    }
    taken = sorted(own.keys() & (extra or {}).keys())
    if taken:
        raise SettingError(f"identity holds {', '.join(taken)}, which the evaluation adds itself")
    return {**own, **(extra or {})}


def _device_of(model: nn.Module) -> torch.device | None:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def _note_images(batch: Batch, seen: set[int]) -> None:
    numbers = batch.index.tolist()
    twice = next((number for number in numbers if number in seen), None)
    seen.update(numbers)
    if twice is not None or len(set(numbers)) < len(numbers):
        which = "an image" if twice is None else f"image {twice}"
        raise DataError(f"{which} came twice: every image needs an index of its own")


def _check_data(batch: Batch) -> None:
    low, high = float(batch.images.min()), float(batch.images.max())
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"images must lie in [0, 1], found {low:g} to {high:g}: scale them and put the "
            "normalisation into the model"
        )
    if int(batch.labels.min()) < 0:
        raise DataError(f"labels start at 0, found {int(batch.labels.min())}")


def _check_classes(labels: Tensor, classes: int) -> None:
    largest = int(labels.max())
    if largest >= classes:
        raise ModelError(
            f"labels go up to {largest}, which takes {largest + 1} classes, but the model has "
            f"{classes}: it was made for other data"
        )


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def distance(threat: Region, images: Tensor, center: Tensor) -> Tensor:
    """[B]: the perturbation's norm in a ball's own norm; NaN for a region without one."""
    if isinstance(threat, Ball):
        return threat.distance(images, center)
    return torch.full((len(images),), float("nan"), device=images.device)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One evaluation: everything that stays the same from batch to batch."""

    model: nn.Module
    view: nn.Module
    suite: Suite
    seed: int
    store: OutcomeStore
    device: torch.device | None

    def outcomes_of(self, batch: Batch, *, first: bool) -> Iterator[Outcomes]:
        """For ``natural`` and then each member, one row for each image of the batch."""
        if len(batch) == 0:
            return
        index, label = batch.index.cpu().numpy(), batch.labels.cpu().numpy()
        stored = {name: self.store.stored(name, index, label) for name in self.suite.names}
        missing = {name: ~rows.holds(index) for name, rows in stored.items()}
        if not any(rows.any() for rows in missing.values()):
            for name in self.suite.names:
                yield stored[name].at(index)
            return
        _check_data(batch)
        if self.device is not None:
            batch = batch.to(self.device)
        logits = classify(self.model, batch.images, index, NATURAL)
        _check_classes(batch.labels, logits.shape[1])
        if first:
            warn_of_probabilities(logits)
        clean = _clean_rows(index, label, logits, batch.labels)
        clean = self._keep(stored[NATURAL], clean, missing[NATURAL]).at(index)
        yield clean
        for member in self.suite.members:
            todo = missing[member.name]
            rows = self._under(member, batch, logits, clean, todo)
            yield self._keep(stored[member.name], rows, todo).at(index)

    def _keep(self, stored: Outcomes, rows: Outcomes, new: npt.NDArray[np.bool_]) -> Outcomes:
        """Write the new ones of ``rows`` and join them with what was stored."""
        fresh = rows.select(new)
        self.store.add(fresh)
        return Outcomes.concatenate([stored, fresh])

    def _under(
        self,
        member: Member,
        batch: Batch,
        logits: Tensor,
        clean: Outcomes,
        todo: npt.NDArray[np.bool_],
    ) -> Outcomes:
        """Rows of all images under a member, of which those in ``todo`` [B] are attacked."""
        columns = {name: column.copy() for name, column in clean.columns().items()}
        columns["attack"] = np.full(len(clean), member.name)
        columns["forwards"], columns["backwards"] = np.zeros((2, len(clean)))
        rows = np.flatnonzero(todo & ~clean.fooled)
        if len(rows):
            found = self._attack(member, batch, logits, torch.from_numpy(rows))
            for name, values in found.items():
                columns[name][rows] = values
        return Outcomes.from_columns(columns)

    def _attack(
        self, member: Member, batch: Batch, logits: Tensor, rows: Tensor
    ) -> dict[str, npt.NDArray[Any]]:
        """What ``member`` did to these rows of the batch, by column name."""
        rows = rows.to(batch.images.device)
        images, labels = batch.images[rows].float(), batch.labels[rows]
        noise = Keyed(keys(self.seed, batch.index[rows])).child(member.name)
        with PassCounter(self.view) as counted:
            variant = member.attack(
                self.view, images, labels, noise=noise, clean_logits=logits[rows]
            )
        index = batch.index[rows].cpu().numpy()
        returned = self._checked(member.name, variant.images, images, index)
        after = classify(self.model, returned, index, member.name)
        prediction = after.argmax(1)
        return {
            "fooled": _numpy(prediction != labels),
            "prediction": _numpy(prediction),
            "margin": _numpy(logit_margin(after, labels)),
            "distance": _numpy(distance(self.suite.threat, returned, images)),
            **_spent(variant, counted, len(rows)),
        }

    def _checked(
        self, attack: str, returned: Tensor, images: Tensor, index: npt.NDArray[np.int64]
    ) -> Tensor:
        """The attack's images as they are, or an error that names the first bad one."""
        if returned.shape != images.shape:
            raise SettingError(
                f"{attack} returned images of shape {tuple(returned.shape)} for "
                f"{tuple(images.shape)}: an attack keeps the shape"
            )
        returned = returned.detach().to(images)
        broken = _numpy(returned.flatten(1).isnan().any(1))
        if broken.any():
            raise NonFiniteError(
                f"{attack} returned NaN for image {index[broken][0]} ({int(broken.sum())} such "
                "images in this batch): the attack or the model's gradient is broken"
            )
        excess = _numpy(self.suite.threat.violation(returned, images))
        outside = ~(excess <= self.suite.threat.tolerance)
        if outside.any():
            raise RegionViolationError(
                f"{attack} left {describe_threat(self.suite.threat)} on image {index[outside][0]} "
                f"by {excess[outside][0]:.3g} ({int(outside.sum())} such images in this batch): "
                "check its epsilon, and that it keeps to [0, 1]"
            )
        return returned


def _clean_rows(
    index: npt.NDArray[np.int64], label: npt.NDArray[np.int64], logits: Tensor, labels: Tensor
) -> Outcomes:
    count = len(index)
    prediction = logits.argmax(1)
    margin = _numpy(logit_margin(logits, labels))
    return Outcomes.from_columns(
        {
            "index": index,
            "label": label,
            "attack": np.full(count, NATURAL),
            "fooled": _numpy(prediction != labels),
            "prediction": _numpy(prediction),
            "margin_clean": margin,
            "margin": margin,
            "step": np.full(count, UNKNOWN),
            "source": np.full(count, UNKNOWN),
            "forwards": np.ones(count),
            "backwards": np.zeros(count),
            "distance": np.zeros(count),
        }
    )


def _spent(variant: Variant, counted: PassCounter, count: int) -> dict[str, npt.NDArray[Any]]:
    """Step, source and passes: what the attack tells, else -1 and the passes counted, shared out
    evenly over the images."""
    trace = variant.trace
    otherwise = {
        "step": UNKNOWN,
        "source": UNKNOWN,
        "forwards": counted.forwards / count,
        "backwards": counted.backwards / count,
    }
    told = {name: getattr(trace, name, None) for name in otherwise}
    return {
        name: np.full(count, otherwise[name]) if value is None else _numpy(value)
        for name, value in told.items()
    }
