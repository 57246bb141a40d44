"""Auto-PGD as an attack: restarts, targets, and which of its candidates it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lrat.attacks.ascent import Ascent, Candidate, ascend
from lrat.attacks.base import GradientAttack, Trace, Variant
from lrat.attacks.pgd import Start, check_start, check_steps, every_image, starting_point
from lrat.errors import ModelError, SettingError
from lrat.losses import Loss, LossLike, Prepared, as_loss, cross_entropy
from lrat.randomness import Noise
from lrat.threat import Ball
from lrat.types import Images, Labels, Logits

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
    """

    threat: Ball
    steps: int = 100
    loss: LossLike = cross_entropy
    targets: int | None = None
    restarts: int = 1
    start: Start = "surface"
    choice: Choice = "misclassified"
    stacked: bool = False
    keep: Mapping[int, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_start(self.start)
        loss = as_loss(self.loss)
        object.__setattr__(self, "loss", loss)
        if self.restarts < 1:
            raise SettingError(f"restarts={self.restarts}: an attack needs at least one start")
        if self.choice not in get_args(Choice):
            raise SettingError(f"choice={self.choice!r}: choose one of {get_args(Choice)}")
        if loss.targeted != (self.targets is not None):
            needed = "needs targets=T" if loss.targeted else "takes no targets"
            raise SettingError(f"APGD(loss={loss!r}, targets={self.targets}): {needed}")
        if self.targets is not None and self.targets < 1:
            raise SettingError(f"targets={self.targets}: a targeted attack needs at least one")
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
        """Without ``keep`` where nothing is given up: what older evaluations are known by."""
        shown = [part.name for part in fields(self) if part.name != "keep" or self.keep]
        return f"APGD({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def needs_clean(self) -> bool:
        return as_loss(self.loss).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        tries = self._tries(clean)
        run = self._all_at_once if self.stacked else self._one_by_one
        return run(tries, model, images, labels, noise, clean)

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

    def _all_at_once(
        self,
        tries: list[_Try],
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Noise,
        clean: Tensor | None,
    ) -> Variant:
        starts = [
            starting_point(self.start, self.threat, images, each.noise(noise)) for each in tries
        ]
        batch = len(images)
        found = ascend(
            model,
            Prepared.stack([each.prepare(as_loss(self.loss), labels, clean) for each in tries]),
            torch.cat(starts),
            torch.cat([images] * len(tries)),
            torch.cat([labels] * len(tries)),
            threat=self.threat,
            steps=self.steps,
            track_wrong=self.choice == "misclassified",
            narrow=lambda run: self._survivors(run, batch),
        )
        candidate, count = self._candidate(found), len(found.row) // batch
        source = candidate.margin.view(count, batch).argmin(0)
        rows = source * batch + torch.arange(batch, device=images.device)
        forwards, backwards = self._passes(len(tries))
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
        kept: tuple[Tensor, ...] = ()
        source = torch.zeros_like(labels)
        runs = torch.zeros_like(labels)
        left = torch.arange(len(images), device=images.device)
        for each in tries:
            center, truth = images[left], labels[left]
            loss = each.prepare(as_loss(self.loss), truth, None if clean is None else clean[left])
            own_noise = each.noise(noise).select(left)
            start = starting_point(self.start, self.threat, center, own_noise)
            found = ascend(
                model,
                loss,
                start,
                center,
                truth,
                threat=self.threat,
                steps=self.steps,
                track_wrong=self.choice == "misclassified",
            )
            candidate = self._candidate(found)
            runs[left] += 1
            own = (candidate.images, candidate.margin, candidate.step)
            if not kept:
                kept = own
            else:
                better = candidate.margin < kept[1][left]
                rows = left[better]
                for target, part in zip(kept, own, strict=True):
                    target[rows] = part[better]
                source[rows] = each.number
            if each is not tries[-1]:
                left = left[~found.ever_wrong]
                if len(left) == 0:
                    break
        images, margin, step = kept
        return Variant(
            images=images,
            trace=Trace(
                margin=margin,
                step=step,
                source=source,
                forwards=runs * (self.steps + 1),
                backwards=runs * self.steps,
            ),
        )
