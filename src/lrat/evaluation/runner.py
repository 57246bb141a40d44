"""The run of an evaluation: blocks of images, step after step, in chunks that fit into memory."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.attacks.adapters import protected_from
from lrat.attacks.base import Variant, costs
from lrat.attacks.gradient import without_gradient
from lrat.attacks.protection import Changes, returned_images
from lrat.data.inputs import trusting
from lrat.errors import ModelError, NonFiniteError, RegionViolationError, SettingError
from lrat.evaluation.acceptance import SMALLER_BATCH, explaining_limit
from lrat.evaluation.examination import examine
from lrat.evaluation.forward import check_labels, classify, sound
from lrat.evaluation.outcomes import NATURAL, UNKNOWN, Outcomes
from lrat.evaluation.storage.store import OutcomeStore
from lrat.evaluation.suites import Member, Suite, describe_threat, replaced
from lrat.evaluation.time_limit import OutOfTimeError
from lrat.hardware import full_float32
from lrat.hooks import GradientWatch, PassCounter
from lrat.losses import logit_margin
from lrat.modes import tensors_kept
from lrat.outputs import forward_logits
from lrat.randomness import Keyed, Noise, Sequential, keys, seeded_randomness
from lrat.threat import Ball, Region
from lrat.types import Batch

_logger = logging.getLogger(__name__)
NoiseKind = Literal["keyed", "sequential"]
Rows = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class SuiteRunner:
    """The state that all blocks of an evaluation share.

    ``chunk``: the number of images that an attack gets at once, None for all of a block.
    ``deadline``: the end of the time limit, in ``time.monotonic``'s seconds. ``report``: called
    with the rows of each finished chunk. ``known_notes``: those of an earlier examination of the
    model, None to examine it. ``classes``: the model's, after its first forward. ``notes``:
    sentences about the numbers. ``attacked``: the number of images without stored outcomes.
    ``changes``: side effects of user attacks.
    """

    model: nn.Module
    view: nn.Module
    suite: Suite
    seed: int
    noise: NoiseKind
    chunk: int | None
    store: OutcomeStore
    device: torch.device | None
    deadline: float | None
    report: Callable[[Outcomes], None]
    known_notes: tuple[str, ...] | None = None
    classes: int | None = None
    notes: tuple[str, ...] = ()
    attacked: int = 0
    changes: Changes = field(default_factory=Changes)

    def block(self, batch: Batch) -> Outcomes:
        """The rows of a block's images for ``natural`` and each step, or ``OutOfTimeError``."""
        index, label = batch.index.cpu().numpy(), batch.labels.cpu().numpy()
        known = {name: self.store.stored(name, index, label) for name in self.suite.names}
        if self._is_done(index, known):
            stored = [known[name].at(index) for name in self.suite.names]
            for rows in stored:
                self.report(rows)
            return Outcomes.concatenate(stored)
        self._check_time()
        batch = sound(batch)
        if self.device is not None:
            batch = batch.to(self.device)
        logits = self._classified(batch.images, index, NATURAL)
        check_labels(batch.labels, logits.shape[1])
        if self.classes is None:
            self.classes = logits.shape[1]
            self.notes += self._examined(batch.images, index, logits)
            self.notes += replaced(self.suite, self.classes)
            # Before any outcome: a later call that finds all of them does not know the classes.
            self.store.keep_notes(self.notes)
        self.attacked += len(index)
        clean = _clean_rows(index, label, logits, batch.labels)
        self._keep(NATURAL, index, batch.images, logits)
        done = {NATURAL: self._kept(known[NATURAL], clean).at(index)}
        self.report(done[NATURAL])
        for step in self.suite.steps:
            base = done[step.after or NATURAL]
            done[step.name] = self._under(step, batch, logits, base, known[step.name])
        return Outcomes.concatenate(done.values())

    def _is_done(self, index: Rows, known: Mapping[str, Outcomes]) -> bool:
        """Whether all outcomes and gallery images of these images are stored."""
        if not all(rows.holds(index).all() for rows in known.values()):
            return False
        return not self._lacks(NATURAL, index).any() and not any(
            self._lacks(step.name, index[~known[step.after or NATURAL].at(index).fooled]).any()
            for step in self.suite.steps
        )

    def _lacks(self, attack: str, index: Rows) -> npt.NDArray[np.bool_]:
        """[B]: whether the gallery lacks the image, so that it is attacked again."""
        gallery = self.store.gallery
        if gallery is None or not gallery.fill:
            return np.zeros(len(index), dtype=bool)
        return gallery.lacks(attack, index)

    def _keep(self, attack: str, index: Rows, images: Tensor, logits: Tensor) -> None:
        """Add the gallery's images among these [B C H W], with their logits [B K]."""
        gallery = self.store.gallery
        if gallery is None:
            return
        rows = np.flatnonzero(gallery.lacks(attack, index))
        if len(rows):
            some = _on(rows, images)
            gallery.add(attack, index[rows], _numpy(images[some].float()), _numpy(logits[some]))

    def _check_time(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError

    def _classified(self, images: Tensor, index: Rows, attack: str) -> Tensor:
        parts = []
        for rows in self._chunks(np.arange(len(index))):
            some = images[_on(rows, images)]
            with (
                self._apart(attack, index[rows]),
                explaining_limit(self.model, some, SMALLER_BATCH),
            ):
                parts.append(classify(self.model, some, index[rows], attack))
        return torch.cat(parts)

    def _examined(self, images: Tensor, index: Rows, logits: Tensor) -> tuple[str, ...]:
        """The notes of the model's examination on the first chunk."""
        if self.known_notes is not None:
            return self.known_notes
        count = len(next(self._chunks(np.arange(len(index)))))
        with self._apart("examined", index):
            notes = examine(self.model, images[:count], index[:count], logits[:count])
        for note in notes:
            _logger.warning(note)
        return notes

    def _chunks(self, rows: Rows) -> Iterator[Rows]:
        size = self.chunk or max(len(rows), 1)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _kept(self, known: Outcomes, rows: Outcomes) -> Outcomes:
        """Write the ``rows`` that are not known yet; all rows that are known then."""
        new = rows.select(~known.holds(rows.index))
        self.store.add(new)
        return Outcomes.concatenate([known, new])

    def _under(
        self, step: Member, batch: Batch, logits: Tensor, base: Outcomes, known: Outcomes
    ) -> Outcomes:
        """The block's rows under a step, which attacks the images that are robust in ``base``."""
        index = base.index
        # Fooled images are not attacked; they are written and reported with the first chunk.
        rest = _repeated(base.select(base.fooled), step.name)
        unreported = np.flatnonzero(base.fooled)
        # Chunks must not depend on known rows, since sequential noise depends on chunks.
        for rows in self._chunks(np.flatnonzero(~base.fooled)):
            missing = rows[~known.holds(index[rows]) | self._lacks(step.name, index[rows])]
            if len(missing):
                self._check_time()
                attacked = rows if self.noise == "sequential" else missing
                columns = _repeated(base.select(attacked), step.name).columns()
                columns |= self._attack(step, batch, logits, attacked)
                new = Outcomes.from_columns(columns)
                known = self._kept(known, Outcomes.concatenate([rest, new]))
            else:
                known = self._kept(known, rest)
            self.report(known.at(index[np.concatenate([unreported, rows])]))
            unreported = unreported[:0]
        known = self._kept(known, rest)
        self.report(known.at(index[unreported]))
        return known.at(index)

    def _attack(
        self, step: Member, batch: Batch, logits: Tensor, rows: Rows
    ) -> dict[str, npt.NDArray[Any]]:
        """The columns of ``step`` for these rows of the block, by name."""
        chosen = _on(rows, batch.images)
        images, labels, clean = batch.images[chosen].float(), batch.labels[chosen], logits[chosen]
        index = batch.index[chosen].cpu().numpy()

        def attacked(
            model: nn.Module, some: Tensor
        ) -> tuple[Tensor, Tensor, Tensor | None, dict[str, npt.NDArray[Any]]]:
            noise = self._noise(step, batch.index[chosen][some])
            names = index[some.cpu().numpy()]
            with (
                self._apart(step.name, names),
                _named(step.name),
                PassCounter(model) as counter,
                GradientWatch(model) as watch,
                protected_from(step.attack, model),
                trusting(),
            ):
                variant = step.attack(
                    model, images[some], labels[some], noise=noise, clean_logits=clean[some]
                )
            self._note(self.changes.notes)
            if not isinstance(variant, Variant):
                raise SettingError(
                    f"{step.name} returned {type(variant).__name__}: an Attack returns "
                    "Variant(images=...), a plain function (model, images, labels) returns images"
                )
            if watch.has_nan:
                raise _no_gradient(step.name, model, images[some], names)
            returned = self._checked(step.name, variant.images, images[some], names)
            with self._apart(step.name, names):
                after = classify(self.model, returned, names, step.name)
            margin = None if variant.trace is None else variant.trace.margin
            claimed = None if margin is None else margin < 0
            cost = {
                name: _numpy(value).copy()
                if isinstance(value, Tensor)
                else np.full(len(some), value)
                for name, value in costs(variant.trace, counter, len(some)).items()
            }
            return returned, after, claimed, cost

        everything = torch.arange(len(rows), device=images.device)
        returned, after, claimed, cost = attacked(self.view, everything)
        while self._has_left_view(index):
            returned, after, claimed, cost = attacked(self.view, everything)
        again = self._unconfirmed(returned, after, labels, claimed, index)
        if len(again):
            # The attack or the view finds these images fooled, the verdict does not: the view
            # differs from the model, or the margin is as small as rounding errors. The model itself
            # is attacked once more on them. Other images are not, so where the view differs from
            # the model, an image may count as robust that an attack on the model would have fooled.
            with full_float32():
                returned[again], after[again], _, more = attacked(self.model, again)
            at = again.cpu().numpy()
            for name in ("forwards", "backwards"):
                cost[name] = cost[name].astype(np.float64)
                cost[name][at] += more[name]
            for name in ("step", "source"):
                cost[name][at] = more[name]
        # Before the outcomes, so that an image is stored for every stored outcome.
        self._keep(step.name, index, returned, after)
        if self.store.keep_images:
            self.store.add_images(step.name, index, _numpy(returned.float()))
        prediction = after.argmax(1)
        return {
            "fooled": _numpy(prediction != labels),
            "prediction": _numpy(prediction),
            "margin": _numpy(logit_margin(after, labels)),
            "distance": _numpy(distance(self.suite.threat, returned, images)),
            **cost,
        }

    def _has_left_view(self, index: Rows) -> bool:
        """Whether the attack used a view that no longer agrees with the model, and is replaced."""
        if not isinstance(self.view, View):
            return False
        with self._apart("checked", index):
            self._note(notes := self.view.check())
        return bool(notes)

    def _note(self, notes: Sequence[str]) -> None:
        """Store these notes, before the outcomes to which they apply."""
        new = tuple(note for note in notes if note not in self.notes)
        self.notes += new
        self.store.keep_notes(new)

    def _noise(self, step: Member, index: Tensor) -> Noise:
        if self.noise == "keyed":
            return Keyed(keys(self.seed, index)).child(step.name)
        # As in AutoAttack: each attack restarts the sequence for each of its batches.
        return Sequential(torch.Generator().manual_seed(self.seed), index.device)

    @contextmanager
    def _apart(self, attack: str, index: Rows) -> Iterator[None]:
        """Around a chunk: random draws of the user's model follow from seed, attack and chunk, and
        its buffers are restored."""
        with (
            seeded_randomness(self.seed, attack, int(index[0])),
            tensors_kept(self.model, buffers_only=True),
            tensors_kept(self.view, buffers_only=True),
        ):
            yield

    def _unconfirmed(
        self,
        returned: Tensor,
        after: Tensor,
        labels: Tensor,
        claimed: Tensor | None,
        index: Rows,
    ) -> Tensor:
        """The robust rows that the attack ``claimed`` [B] to have fooled, or, where it makes no
        claims, that the view misclassifies."""
        robust = (after.argmax(1) == labels).nonzero().flatten()
        if not len(robust) or (claimed is None and self.view is self.model):
            return labels[:0]
        if claimed is None:
            with torch.no_grad(), self._apart("seen", index):
                prediction = forward_logits(self.view, returned[robust]).argmax(1)
            return robust[prediction != labels[robust]]
        return robust[claimed[robust]]

    def _checked(self, attack: str, returned: Tensor, images: Tensor, index: Rows) -> Tensor:
        """The attack's images; an error names the first image that is NaN or outside the region."""
        returned = returned_images(attack, returned, images)
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


@contextmanager
def _named(attack: str) -> Iterator[None]:
    """Inside, errors of the model name the attack."""
    try:
        yield
    except ModelError as error:
        raise type(error)(f"under {attack}: {error}") from error


def _no_gradient(attack: str, model: nn.Module, images: Tensor, index: Rows) -> NonFiniteError:
    broken = index[_numpy(without_gradient(model, images))]
    where = f"image {broken[0]} ({len(broken)} such)" if len(broken) else "an iterate"
    return NonFiniteError(
        f"the gradient is NaN on {where} under {attack}, so gradient attacks do not move: look for "
        "a root, norm or division at 0 in the model (or in a loss of your own), or evaluate with "
        "attacks that need no gradient (square)"
    )


def distance(threat: Region, images: Tensor, center: Tensor) -> Tensor:
    """[B]: the perturbation in the ball's norm; NaN for a region without a norm."""
    if isinstance(threat, Ball):
        return threat.distance(images, center)
    return torch.full((len(images),), float("nan"), device=images.device)


def _numpy(tensor: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def _on(rows: Rows, images: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(images.device)


def _clean_rows(index: Rows, label: Rows, logits: Tensor, labels: Tensor) -> Outcomes:
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


def _repeated(rows: Outcomes, name: str) -> Outcomes:
    """The same images as rows of another attack, without passes."""
    columns = rows.columns()
    nothing = np.zeros(len(rows))
    columns |= {"attack": np.full(len(rows), name), "forwards": nothing, "backwards": nothing}
    return Outcomes.from_columns(columns)
