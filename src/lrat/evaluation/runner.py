"""One evaluation at work: blocks of images, step after step, in chunks that fit into memory."""

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
from lrat.evaluation.acceptance import SMALLER_BATCH, limit_said
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
    """Everything that stays the same from block to block.

    ``chunk``: how many images an attack gets at once, None for all that a block has left.
    ``deadline``: when to stop, on ``time.monotonic``'s clock. ``report``: called with the rows of
    each chunk when it is done. ``known_notes``: what an earlier look at the model found, None to
    look at it. ``classes``: of the model, once it was called. ``notes``: what to know of the
    numbers. ``attacked``: how many images were not read back. ``changes``: of attacks of others.
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
        self._look_at_the_clock()
        batch = sound(batch)
        if self.device is not None:
            batch = batch.to(self.device)
        logits = self._classified(batch.images, index, NATURAL)
        check_labels(batch.labels, logits.shape[1])
        if self.classes is None:
            self.classes = logits.shape[1]
            self.notes += self._found(batch.images, index, logits)
            self.notes += replaced(self.suite, self.classes)
            # Before any outcome: whoever finds all of them later cannot know the classes.
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
        """Whether nothing is left to do for these images."""
        if not all(rows.holds(index).all() for rows in known.values()):
            return False
        gallery = self.store.gallery
        if gallery is None or not gallery.fill:
            return True
        return not gallery.lacks(NATURAL, index).any() and not any(
            gallery.lacks(step.name, index[~known[step.after or NATURAL].at(index).fooled]).any()
            for step in self.suite.steps
        )

    def _is_filled(self, attack: str, index: Rows) -> npt.NDArray[np.bool_]:
        """[B]: known, and attacked again for its image alone."""
        gallery = self.store.gallery
        if gallery is None or not gallery.fill:
            return np.zeros(len(index), dtype=bool)
        return gallery.lacks(attack, index)

    def _keep(self, attack: str, index: Rows, images: Tensor, logits: Tensor) -> None:
        """Those of the images [B C H W] that the gallery wants, with the logits [B K] on them."""
        gallery = self.store.gallery
        if gallery is None:
            return
        rows = np.flatnonzero(gallery.lacks(attack, index))
        if len(rows):
            some = _on(rows, images)
            kept = [_numpy(values[some].float()) for values in (images, logits)]
            gallery.add(attack, index[rows], *kept)

    def _look_at_the_clock(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError

    def _classified(self, images: Tensor, index: Rows, attack: str) -> Tensor:
        parts = []
        for rows in self._chunks(np.arange(len(index))):
            some = images[_on(rows, images)]
            with self._apart(attack, index[rows]), limit_said(self.model, some, SMALLER_BATCH):
                parts.append(classify(self.model, some, index[rows], attack))
        return torch.cat(parts)

    def _found(self, images: Tensor, index: Rows, logits: Tensor) -> tuple[str, ...]:
        """What a look at the first chunk finds."""
        if self.known_notes is not None:
            return self.known_notes
        count = len(next(self._chunks(np.arange(len(index)))))
        with self._apart("examined", index):
            found = examine(self.model, images[:count], index[:count], logits[:count])
        for note in found:
            _logger.warning(note)
        return found

    def _chunks(self, rows: Rows) -> Iterator[Rows]:
        size = self.chunk or max(len(rows), 1)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _kept(self, known: Outcomes, rows: Outcomes) -> Outcomes:
        """Write those of ``rows`` that are not known yet and join them with what is."""
        fresh = rows.select(~known.holds(rows.index))
        self.store.add(fresh)
        return Outcomes.concatenate([known, fresh])

    def _under(
        self, step: Member, batch: Batch, logits: Tensor, base: Outcomes, known: Outcomes
    ) -> Outcomes:
        """The block's rows under a step, which attacks the images that stand in ``base``."""
        index = base.index
        # Not attacked; written and told together with the first chunk.
        rest = _repeated(base.select(base.fooled), step.name)
        told = np.flatnonzero(base.fooled)
        # Chunks do not depend on what is known already: sequential noise does depend on chunks.
        for rows in self._chunks(np.flatnonzero(~base.fooled)):
            missing = rows[~known.holds(index[rows]) | self._is_filled(step.name, index[rows])]
            if len(missing):
                self._look_at_the_clock()
                attacked = rows if self.noise == "sequential" else missing
                columns = _repeated(base.select(attacked), step.name).columns()
                columns |= self._attack(step, batch, logits, attacked)
                made = Outcomes.from_columns(columns)
                known = self._kept(known, Outcomes.concatenate([rest, made]))
            else:
                known = self._kept(known, rest)
            self.report(known.at(index[np.concatenate([told, rows])]))
            told = told[:0]
        known = self._kept(known, rest)
        self.report(known.at(index[told]))
        return known.at(index)

    def _attack(
        self, step: Member, batch: Batch, logits: Tensor, rows: Rows
    ) -> dict[str, npt.NDArray[Any]]:
        """What ``step`` did to these rows of the block, by column name."""
        place = _on(rows, batch.images)
        images, labels, clean = batch.images[place].float(), batch.labels[place], logits[place]
        index = batch.index[place].cpu().numpy()

        def attacked(
            model: nn.Module, some: Tensor
        ) -> tuple[Tensor, Tensor, Tensor | None, dict[str, npt.NDArray[Any]]]:
            noise = self._noise(step, batch.index[place][some])
            names = index[some.cpu().numpy()]
            with (
                self._apart(step.name, names),
                _named(step.name),
                PassCounter(model) as counted,
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
            return returned, after, claimed, _spent(variant, counted, len(some))

        everything = torch.arange(len(rows), device=images.device)
        returned, after, claimed, cost = attacked(self.view, everything)
        while self._has_left_view(index):
            returned, after, claimed, cost = attacked(self.view, everything)
        again = self._unconfirmed(returned, after, labels, claimed, index)
        if len(again):
            # The attack or the view says fooled, the verdict does not: the view computes otherwise,
            # or the margin is of rounding size. The model itself is attacked once more on these
            # images. What the view never claims is not, so where it differs from the model, an
            # image may stand that the model alone would have lost.
            with full_float32():
                returned[again], after[again], _, more = attacked(self.model, again)
            at = again.cpu().numpy()
            for name in ("forwards", "backwards"):
                cost[name] = cost[name].astype(np.float64)
                cost[name][at] += more[name]
            for name in ("step", "source"):
                cost[name][at] = more[name]
        # Before the outcomes: who finds those later finds these too.
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
        """Whether the attack saw a view that no longer agrees with the model, and left it."""
        if not isinstance(self.view, View):
            return False
        with self._apart("checked", index):
            self._note(notes := self.view.check())
        return bool(notes)

    def _note(self, notes: Sequence[str]) -> None:
        """Before the outcomes that these are about."""
        new = tuple(note for note in notes if note not in self.notes)
        self.notes += new
        self.store.keep_notes(new)

    def _noise(self, step: Member, index: Tensor) -> Noise:
        if self.noise == "keyed":
            return Keyed(keys(self.seed, index)).child(step.name)
        # As AutoAttack draws: each attack begins the sequence anew for each of its batches.
        return Sequential(torch.Generator().manual_seed(self.seed), index.device)

    @contextmanager
    def _apart(self, attack: str, index: Rows) -> Iterator[None]:
        """A chunk on its own: what a model of the user draws follows from the seed, the attack and
        the chunk, and what it writes into its buffers is gone afterwards."""
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
        """The rows that are fooled to the attack, which ``claimed`` [B] so, or to the view, and
        not to the verdict."""
        stands = (after.argmax(1) == labels).nonzero().flatten()
        if not len(stands) or (claimed is None and self.view is self.model):
            return labels[:0]
        if claimed is None:
            with torch.no_grad(), self._apart("seen", index):
                seen = forward_logits(self.view, returned[stands]).argmax(1)
            return stands[seen != labels[stands]]
        return stands[claimed[stands]]

    def _checked(self, attack: str, returned: Tensor, images: Tensor, index: Rows) -> Tensor:
        """The attack's images as they are, or an error that names the first bad one."""
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
    """What the model refuses inside says under which attack."""
    try:
        yield
    except ModelError as error:
        raise type(error)(f"under {attack}: {error}") from error


def _no_gradient(attack: str, model: nn.Module, images: Tensor, index: Rows) -> NonFiniteError:
    broken = index[_numpy(without_gradient(model, images))]
    where = f"image {broken[0]} ({len(broken)} such)" if len(broken) else "an image on its way"
    return NonFiniteError(
        f"the gradient is NaN on {where} under {attack}, so gradient attacks stand still: look for "
        "a root, norm or division at 0 in the model (or in a loss of your own), or evaluate with "
        "attacks that need no gradient (square)"
    )


def distance(threat: Region, images: Tensor, center: Tensor) -> Tensor:
    """[B]: the perturbation's norm in a ball's own norm; NaN for a region without one."""
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
    """The same images under another attack, which spent nothing on them."""
    columns = rows.columns()
    nothing = np.zeros(len(rows))
    columns |= {"attack": np.full(len(rows), name), "forwards": nothing, "backwards": nothing}
    return Outcomes.from_columns(columns)


def _spent(variant: Variant, counted: PassCounter, count: int) -> dict[str, npt.NDArray[Any]]:
    """Step, source and passes of each image."""
    return {
        name: _numpy(value).copy() if isinstance(value, Tensor) else np.full(count, value)
        for name, value in costs(variant.trace, counted, count).items()
    }
