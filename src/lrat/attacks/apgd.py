"""Auto-PGD as an attack: restarts, targets, and the choice among its candidates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.ascent import Ascent, Candidate, ascend
from lrat.attacks.base import Best, GradientAttack, Rows, Trace, Variant, confirmed
from lrat.attacks.pgd import Start, every_image, starting_point
from lrat.checks import check_fields, one_of
from lrat.errors import ModelError, SettingError
from lrat.losses import Loss, LossLike, Prepared, as_loss, cross_entropy
from lrat.randomness import Noise
from lrat.text import as_call
from lrat.threat import BALL, BallLike
from lrat.types import Images, Labels, Logits

_STARTS = one_of(set(get_args(Start)) - {"unprojected"})  # candidates must lie in the ball
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
    probability margin, never the clean image. A try's candidate is its latest misclassified
    iterate, else its best-loss one (``choice="misclassified"``), or always the latter.

    Tries run one after the other on the images not fooled yet, as in AutoAttack; with ``stacked``
    all tries of all images run as one batch, which suits training and keeps shapes static.

    ``keep={iterate: count}`` (stacked only) halves the tries in between: after this iterate each
    image continues with the ``count`` tries whose candidates have the smallest probability margins,
    with unchanged step sizes, momentum and best points. The other tries are dropped.

    ``retire_every=N`` (not stacked): after every N iterates the fooled images leave the batch,
    which suits evaluation: the same images are fooled, by an earlier iterate. Against an
    accelerated view only those leave that its original confirms.
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
                f"retire_every={self.retire_every}: not with stacked=True, whose batch keeps its "
                "size"
            )
        if self.keep is not None:
            keep = dict(sorted(self.keep.items()))
            self._check_keep(keep)
            object.__setattr__(self, "keep", keep or None)

    def _check_keep(self, keep: Mapping[int, int]) -> None:
        if not self.stacked:
            raise SettingError(
                f"keep={keep}: only tries that run as one batch can be dropped; pass stacked=True"
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
        return as_call(self, quiet=["keep", "retire_every"])

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
        """The settings that attacks must share to step as one batch (``attack_together``).

        None for an attack whose batch shrinks.
        """
        shrinks = not self.stacked or self.keep
        return None if shrinks else (self.threat, self.steps, self.choice)

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

    def _candidate(self, run: Ascent) -> Candidate:
        best = run.best
        if self.start == "none":
            # Iterate 0 is the clean image: no variant, unless it is misclassified already.
            best = best.replace((best.step == 0) & ~run.ever_wrong, run.last)
        return best if run.wrong is None else best.replace(run.ever_wrong, run.wrong)

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
        """The ascent of all rows, also those of other attacks with this stride."""
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

    def variant(self, run: Ascent, images: Tensor) -> Variant:
        """The variant of each image from the run of this attack's rows."""
        batch = len(images)
        candidate, count = self._candidate(run), len(run.row) // batch
        source = candidate.margin.view(count, batch).argmin(0)
        rows = source * batch + torch.arange(batch, device=images.device)
        forwards, backwards = self._passes(len(self._tries(run.logits)))
        return Variant(
            images=candidate.images[rows],
            trace=Trace(
                margin=candidate.margin[rows],
                step=candidate.step[rows],
                source=run.row[rows] // batch,
                forwards=every_image(forwards, images),
                backwards=every_image(backwards, images),
            ),
        )

    def _survivors(self, run: Ascent, batch: int) -> Tensor | None:
        """The rows of the tries that go on after this iterate; tries are stacked over images."""
        count, remaining = len(run.row) // batch, (self.keep or {}).get(run.number)
        if remaining is None or remaining >= count:
            return None
        margin = self._candidate(run).margin.view(count, batch)
        best: Tensor = margin.argsort(dim=0, stable=True)[:remaining]
        return (best * batch + torch.arange(batch, device=best.device)).flatten()

    def _passes(self, tries: int) -> tuple[int, int]:
        """Forwards and backwards of an image: one forward per iterate and try, and one backward of
        each but the last."""
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
        best = Best(images, labels)
        rows = torch.arange(len(images), device=images.device)
        for each in tries:
            center, truth = images[rows], labels[rows]
            start = starting_point(self.start, self.threat, center, each.noise(noise).select(rows))
            run = ascend(
                model,
                each.prepare(as_loss(self.loss), truth, None if clean is None else clean[rows]),
                start,
                center,
                truth,
                threat=self.threat,
                steps=self.steps,
                track_wrong=self.choice == "misclassified",
                narrow=partial(self._retire, model, best, rows, each),
            )
            fooled = confirmed(model, self._candidate(run).images, run.labels, run.ever_wrong)
            self._take(best, rows, each, run, fooled)
            rows = rows[~best.fooled[rows]]
            if len(rows) == 0:
                break
        return best.variant()

    def _retire(
        self, model: nn.Module, best: Best, rows: Tensor, each: _Try, run: Ascent
    ) -> Tensor | None:
        """Take the fooled images out of the batch after every N iterates; the others go on."""
        if self.retire_every is None or run.number % self.retire_every:
            return None
        fooled = confirmed(model, self._candidate(run).images, run.labels, run.ever_wrong)
        if not bool(fooled.any()):
            return None
        leaving = run.select(fooled.nonzero().flatten())
        self._take(best, rows, each, leaving, leaving.ever_wrong)
        return (~fooled).nonzero().flatten()

    def _take(self, best: Best, rows: Tensor, each: _Try, run: Ascent, fooled: Tensor) -> None:
        candidate = self._candidate(run)
        best.take(
            rows[run.row],
            candidate.images,
            margin=candidate.margin,
            fooled=fooled,
            step=candidate.step,
            source=each.number,
            forwards=run.number + 1,
            backwards=run.gradients,
        )
