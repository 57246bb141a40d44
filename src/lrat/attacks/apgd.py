"""Auto-PGD as an attack: restarts, targets, and which of its candidates it returns."""

from dataclasses import dataclass
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
    """

    threat: Ball
    steps: int = 100
    loss: LossLike = cross_entropy
    targets: int | None = None
    restarts: int = 1
    start: Start = "surface"
    choice: Choice = "misclassified"
    stacked: bool = False

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
        if self.choice == "best-loss":
            return best
        return best.replace(found.ever_wrong, found.wrong)

    def _all_at_once(
        self,
        tries: list[_Try],
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Noise,
        clean: Tensor | None,
    ) -> Variant:
        count, batch = len(tries), len(images)
        starts = [
            starting_point(self.start, self.threat, images, each.noise(noise)) for each in tries
        ]
        found = ascend(
            model,
            Prepared.stack([each.prepare(as_loss(self.loss), labels, clean) for each in tries]),
            torch.cat(starts),
            torch.cat([images] * count),
            torch.cat([labels] * count),
            threat=self.threat,
            steps=self.steps,
        )
        candidate = self._candidate(found)
        source = candidate.margin.view(count, batch).argmin(0)
        rows = source * batch + torch.arange(batch, device=images.device)
        return Variant(
            images=candidate.images[rows],
            trace=Trace(
                margin=candidate.margin[rows],
                step=candidate.step[rows],
                source=source,
                forwards=every_image(count * (self.steps + 1), images),
                backwards=every_image(count * self.steps, images),
            ),
        )

    def _one_by_one(
        self,
        tries: list[_Try],
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        noise: Noise,
        clean: Tensor | None,
    ) -> Variant:
        result: Candidate | None = None
        source = torch.zeros_like(labels)
        runs = torch.zeros_like(labels)
        left = torch.arange(len(images), device=images.device)
        for each in tries:
            center, truth = images[left], labels[left]
            loss = each.prepare(as_loss(self.loss), truth, None if clean is None else clean[left])
            own_noise = each.noise(noise).select(left)
            start = starting_point(self.start, self.threat, center, own_noise)
            found = ascend(model, loss, start, center, truth, threat=self.threat, steps=self.steps)
            candidate = self._candidate(found)
            runs[left] += 1
            if result is None:
                result = candidate
            else:
                better = candidate.margin < result.margin[left]
                rows = left[better]
                for name in ("images", "margin", "step", "loss"):
                    getattr(result, name)[rows] = getattr(candidate, name)[better]
                source[rows] = each.number
            if each is not tries[-1]:
                left = left[~found.ever_wrong]
                if len(left) == 0:
                    break
        if result is None:
            raise SettingError("APGD has no target to try: the model has a single class")
        return Variant(
            images=result.images,
            trace=Trace(
                margin=result.margin,
                step=result.step,
                source=source,
                forwards=runs * (self.steps + 1),
                backwards=runs * self.steps,
            ),
        )
