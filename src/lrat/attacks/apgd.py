"""Auto-PGD as an attack: restarts, targets, and which of its candidates it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.ascent import Ascent, Candidate, ascend
from lrat.attacks.base import GradientAttack, Rows, Trace, Variant, confirmed
from lrat.attacks.pgd import Start, every_image, starting_point
from lrat.checks import check_fields, one_of
from lrat.errors import ModelError, SettingError
from lrat.losses import Loss, LossLike, Prepared, as_loss, cross_entropy
from lrat.randomness import Noise
from lrat.threat import BALL, BallLike
from lrat.types import Images, Labels, Logits

_STARTS = one_of(set(get_args(Start)) - {"unprojected"})  # what is found must lie in the ball
Choice = Literal["misclassified", "best-loss"]


@dataclass(frozen=True)
class _Try:
    """One start: the restart's number and, for a targeted loss, the target's rank (1 = highest)."""

    number: int
    restart: int
    rank: int | None

    def noise(self, noise: Noise) -> Noise:
        return noise.child(self.restart).child(self.rank or 0)

    def prepare(self, loss: Loss, labels: Tensor, clean: Tensor | None) -> Prepared:
        if self.rank is None:
            return loss.prepare(labels, clean)
        return loss.prepare(labels, clean, torch.full_like(labels, self.rank))


@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Auto-PGD on any loss (Croce & Hein 2020; APGD-CE, -DLR and -T of AutoAttack are settings).

    ``targets``: T tries, towards the wrong classes of rank 1..T at the clean image (at most K - 1),
    for targeted losses. Returns, per image and over all tries, the candidate with the smallest
    probability margin, never the clean image; a try's candidate is its latest misclassified
    iterate, else its best-loss one (``choice="misclassified"``), or always the latter.

    Tries run one after the other on the images not fooled yet, as in AutoAttack; with ``stacked``
    all tries of all images run as one batch, which suits training and keeps shapes static.

    ``keep={iterate: count}`` (stacked only) halves the tries on the way: after this iterate each
    image goes on with the ``count`` tries whose candidates have the smallest probability margins,
    their step sizes, momentum and best points as they are. The other tries are forgotten.

    ``retire_every=N`` (one by one only): every N iterates the images that are fooled leave the
    batch, as an evaluation wants it: the same images are fooled, by an earlier iterate. Through an
    accelerated view only those leave that its original confirms; the others are attacked on.
    """

    threat: BallLike
    steps: int = 100
    loss: LossLike = cross_entropy
    targets: int | None = None
    restarts: int = 1
    start: Start = "surface"
    choice: Choice = "misclassified"
    stacked: bool = False
    keep: Mapping[int, int] | None = field(default=None, hash=False)
    retire_every: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, threat=BALL, start=_STARTS, choice=one_of(get_args(Choice)))
        loss = as_loss(self.loss)
        object.__setattr__(self, "loss", loss)
        if loss.targeted != (self.targets is not None):
            needed = "needs targets=T" if loss.targeted else "takes no targets"
            raise SettingError(f"APGD(loss={loss!r}, targets={self.targets}): {needed}")
        if self.retire_every is not None and self.stacked:
            raise SettingError(
                f"retire_every={self.retire_every}: not with stacked=True, which keeps the batch "
                "as it is"
            )
        if self.keep is not None:
            object.__setattr__(self, "keep", dict(sorted(self.keep.items())))
            self._check_keep(self.keep)

    def _check_keep(self, keep: Mapping[int, int]) -> None:
        if not self.stacked:
            raise SettingError(
                f"keep={keep}: only tries that run as one batch can be given up on "
                "the way; pass stacked=True"
            )
        if not all(iterate in range(1, self.steps) for iterate in keep):
            raise SettingError(
                f"keep={keep}: iterates must lie in 1 ... {self.steps - 1}, before the last one"
            )
        counts = [(self.targets or 1) * self.restarts, *keep.values()]
        if counts[-1] < 1 or any(after >= count for count, after in pairwise(counts)):
            raise SettingError(
                f"keep={keep}: of {counts[0]} tries ever fewer must be kept, and at least one"
            )

    def __repr__(self) -> str:
        """Without the later settings where they are not used: older evaluations lack them."""
        later = {"keep", "retire_every"}
        shown = [
            part.name for part in fields(self) if part.name not in later or getattr(self, part.name)
        ]
        return f"APGD({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def needs_clean(self) -> bool:
        return as_loss(self.loss).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        if self.stacked:
            return self.variant(self.run(model, self.rows(images, labels, noise, clean)), images)
        return self._one_by_one(self._tries(clean), model, images, labels, noise, clean)

    @property
    def stride(self) -> tuple[object, ...] | None:
        """What attacks must have in common to take their steps as one batch: see ``shared``.

        None for an attack whose batch shrinks on the way.
        """
        alone = not self.stacked or self.keep
        return None if alone else (self.threat, self.steps, self.choice)

    @property
    def most_tries(self) -> int:
        """Rows per image where ``stacked``; fewer where there are not as many wrong classes."""
        return (self.targets or 1) * self.restarts

    def _tries(self, clean: Tensor | None) -> list[_Try]:
        ranks: list[int | None] = [None]
        if self.targets is not None and clean is not None:
            ranks = list(range(1, min(self.targets, clean.shape[1] - 1) + 1))
        if not ranks:
            raise ModelError(
                "the model has a single class, so there is no wrong class to aim at: give it one "
                "logit per class"
            )
        pairs = [(restart, rank) for rank in ranks for restart in range(self.restarts)]
        return [_Try(number, restart, rank) for number, (restart, rank) in enumerate(pairs)]

    def _candidate(self, found: Ascent) -> Candidate:
        best = found.best
        if self.start == "none":
            # Iterate 0 is the clean image itself: no variant, unless it is misclassified already.
            best = best.replace((best.step == 0) & ~found.ever_wrong, found.last)
        return best if found.wrong is None else best.replace(found.ever_wrong, found.wrong)

    def rows(self, images: Tensor, labels: Tensor, noise: Noise, clean: Tensor | None) -> Rows:
        """The starts of all tries, stacked over the images."""
        tries = self._tries(clean)
        starts = [
            starting_point(self.start, self.threat, images, each.noise(noise)) for each in tries
        ]
        losses = [each.prepare(as_loss(self.loss), labels, clean) for each in tries]
        return Rows(
            loss=Prepared.stack(losses, [len(images)] * len(tries)),
            start=torch.cat(starts),
            center=torch.cat([images] * len(tries)),
            labels=torch.cat([labels] * len(tries)),
            batch=len(images),
        )

    def run(self, model: nn.Module, rows: Rows) -> Ascent:
        """The ascent of all rows, whichever attacks of this stride they belong to."""
        return ascend(
            model,
            rows.loss,
            rows.start,
            rows.center,
            rows.labels,
            threat=self.threat,
            steps=self.steps,
            track_wrong=self.choice == "misclassified",
            narrow=lambda run: self._survivors(run, rows.batch),
        )

    def variant(self, found: Ascent, images: Tensor) -> Variant:
        """What to return of this attack's own rows."""
        batch = len(images)
        candidate, count = self._candidate(found), len(found.row) // batch
        source = candidate.margin.view(count, batch).argmin(0)
        rows = source * batch + torch.arange(batch, device=images.device)
        forwards, backwards = self._passes(len(self._tries(found.logits)))
        return Variant(
            images=candidate.images[rows],
            trace=Trace(
                margin=candidate.margin[rows],
                step=candidate.step[rows],
                source=found.row[rows] // batch,
                forwards=every_image(forwards, images),
                backwards=every_image(backwards, images),
            ),
        )

    def _survivors(self, run: Ascent, batch: int) -> Tensor | None:
        """The rows of the tries that go on after this iterate; tries are stacked over images."""
        count, wanted = len(run.row) // batch, (self.keep or {}).get(run.number)
        if wanted is None or wanted >= count:
            return None
        margin = self._candidate(run).margin.view(count, batch)
        best: Tensor = margin.argsort(dim=0, stable=True)[:wanted]
        return (best * batch + torch.arange(batch, device=best.device)).flatten()

    def _passes(self, tries: int) -> tuple[int, int]:
        """Forwards and backwards of an image: one each per iterate and try, but none after it."""
        forwards = 0
        for number in range(self.steps + 1):
            forwards += tries
            tries = min(tries, (self.keep or {}).get(number, tries))
        return forwards, forwards - tries

    def _one_by_one(
        self,
        tries: list[_Try],
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Noise,
        clean: Tensor | None,
    ) -> Variant:
        kept = _Kept.empty(images, labels)
        left = torch.arange(len(images), device=images.device)
        for each in tries:
            center, truth = images[left], labels[left]
            start = starting_point(self.start, self.threat, center, each.noise(noise).select(left))
            found = ascend(
                model,
                each.prepare(as_loss(self.loss), truth, None if clean is None else clean[left]),
                start,
                center,
                truth,
                threat=self.threat,
                steps=self.steps,
                track_wrong=self.choice == "misclassified",
                narrow=partial(self._retire, model, kept, left, each),
            )
            candidate = self._candidate(found)
            fooled = confirmed(model, candidate.images, truth[found.row], found.ever_wrong)
            kept.take(left[found.row], candidate, fooled, found, each)
            left = left[~kept.fooled[left]]
            if len(left) == 0:
                break
        return kept.variant()

    def _retire(
        self, model: nn.Module, kept: "_Kept", left: Tensor, each: _Try, run: Ascent
    ) -> Tensor | None:
        """Take what is fooled out of the batch every so many iterates; the rest goes on."""
        if self.retire_every is None or run.number % self.retire_every:
            return None
        gone = confirmed(model, self._candidate(run).images, run.labels, run.ever_wrong)
        if not bool(gone.any()):
            return None
        leaving = run.select(gone.nonzero().flatten())
        kept.take(left[leaving.row], self._candidate(leaving), leaving.ever_wrong, leaving, each)
        return (~gone).nonzero().flatten()


@dataclass
class _Kept:
    """The best candidate so far of each image of a batch, and what it cost."""

    images: Tensor
    margin: Tensor
    step: Tensor
    source: Tensor
    forwards: Tensor
    backwards: Tensor
    fooled: Tensor

    @staticmethod
    def empty(images: Tensor, labels: Tensor) -> "_Kept":
        zeros = torch.zeros_like(labels)
        return _Kept(
            images=images.clone(),
            margin=torch.full_like(zeros, torch.inf, dtype=images.dtype),
            step=zeros.clone(),
            source=zeros.clone(),
            forwards=zeros.clone(),
            backwards=zeros.clone(),
            fooled=zeros.bool(),
        )

    def take(
        self, rows: Tensor, candidate: Candidate, fooled: Tensor, run: Ascent, each: _Try
    ) -> None:
        """What a run found for these images: its start and ``run.number`` iterates are spent."""
        self.forwards[rows] += run.number + 1
        self.backwards[rows] += run.gradients
        # A first success counts also where rounding hides it in the margin of probabilities.
        better = (candidate.margin < self.margin[rows]) | (fooled & ~self.fooled[rows])
        self.fooled[rows] |= fooled
        rows = rows[better]
        self.images[rows] = candidate.images[better]
        self.margin[rows] = candidate.margin[better]
        self.step[rows] = candidate.step[better]
        self.source[rows] = each.number

    def variant(self) -> Variant:
        return Variant(
            images=self.images,
            trace=Trace(
                margin=self.margin,
                step=self.step,
                source=self.source,
                forwards=self.forwards,
                backwards=self.backwards,
            ),
        )
