"""The model of a masking panel, and its logits and verdicts under attacks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from lrat.attacks.base import Attack
from lrat.attacks.gradient import gradients_of, image_gradient
from lrat.data.inputs import trusting
from lrat.errors import RegionViolationError
from lrat.evaluation.acceptance import explaining_limit
from lrat.evaluation.forward import classify
from lrat.evaluation.masking.limits import NOISE_DRAWS
from lrat.hardware import full_float32
from lrat.losses import cross_entropy
from lrat.modes import evaluating, recordable, tensors_kept
from lrat.randomness import Keyed, keys
from lrat.threat import Ball
from lrat.types import Batch

_CHUNK = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model, the view that attacks use, and images with the ball around them.

    Every attack draws the same noise, so that two attacks differ in their settings alone. Each
    attack runs once, and its result serves all checks.
    """

    model: nn.Module
    view: nn.Module
    batch: Batch
    threat: Ball
    seed: int
    also_fooled: dict[str, Tensor] = field(default_factory=dict)
    written: dict[str, None] = field(default_factory=dict)
    """Buffers that a forward changed; they are restored after each."""
    _answers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.batch)

    @property
    def noise(self) -> Keyed:
        return Keyed(keys(self.seed, self.batch.index))

    @cached_property
    def clean(self) -> Tensor:
        """Logits [n K] of the clean images."""
        with explaining_limit(self.model, self.batch.images[:_CHUNK]):
            return self.answers_to(self.batch.images, "natural")

    @cached_property
    def right(self) -> Tensor:
        """[n]: the clean image is classified correctly."""
        return self.clean.argmax(1) == self.batch.labels

    @property
    def classes(self) -> int:
        return self.clean.shape[1]

    def answers_to(self, images: Tensor, name: str, rows: Tensor | None = None) -> Tensor:
        """Float32 logits of the original model, for verdicts."""
        index = self.batch.index if rows is None else self.batch.index[rows]
        parts = []
        for chunk in _chunks(len(images)):
            with self._buffers_kept():
                numbers = index[chunk].cpu().numpy()
                parts.append(classify(self.model, images[chunk], numbers, name))
        return torch.cat(parts)

    def after(self, name: str, attack: Attack, among: Tensor | None = None) -> Tensor:
        """Logits [n K] after the attack on the images that are right (and true in ``among``).

        Other images keep their clean logits. The result is stored under ``name``. Raises
        ``RegionViolationError``, and ``NoGradientError`` for a model without gradients.
        """
        if name not in self._answers:
            chosen = self.right if among is None else self.right & among
            answers = self.clean.clone()
            chosen_rows = chosen.nonzero().flatten()
            for chunk in _chunks(len(chosen_rows)):
                rows = chosen_rows[chunk]
                answers[rows] = self._attacked(name, attack, rows)
            self._answers[name] = answers
        return self._answers[name]

    def robust_to(self, name: str, attack: Attack, among: Tensor | None = None) -> Tensor:
        """[n]: right when clean and after the attack."""
        answers = self.after(name, attack, among)
        return self.right & (answers.argmax(1) == self.batch.labels)

    @cached_property
    def robust_to_noise(self) -> Tensor:
        """[n]: right when clean and under each of NOISE_DRAWS uniform draws from the ball."""
        robust = self.right.clone()
        for draw in range(NOISE_DRAWS):
            rows = robust.nonzero().flatten()
            if len(rows) == 0:
                break
            noise = self.noise.select(rows).child("draw").child(draw)
            images = self.threat.sample(self.batch.images[rows], noise)
            answers = self.answers_to(images, "noise", rows)
            robust[rows] = answers.argmax(1) == self.batch.labels[rows]
        return robust

    @cached_property
    def gradients(self) -> Tensor:
        """[n]: the largest absolute entry of the cross-entropy's input gradient, in float32, of the
        original model. Raises ``NoGradientError`` where there is none."""
        loss = cross_entropy.prepare(self.batch.labels)
        parts = []
        model = self.model
        with full_float32(), recordable(model), evaluating(model), gradients_of(model):
            rows = torch.arange(self.n, device=self.batch.labels.device)
            for chunk in _chunks(self.n):
                part = loss.select(rows[chunk])
                with self._buffers_kept():
                    gradient = image_gradient(model, part, self.batch.images[chunk])[0]
                parts.append(gradient.abs().flatten(1).amax(1))
        return torch.cat(parts)

    def _attacked(self, name: str, attack: Attack, rows: Tensor) -> Tensor:
        images, labels = self.batch.images[rows], self.batch.labels[rows]
        with trusting(), self._buffers_kept():
            variant = attack(
                self.view,
                images,
                labels,
                noise=self.noise.select(rows),
                clean_logits=self.clean[rows],
            )
        region = getattr(attack, "threat", self.threat)
        excess = float(region.violation(variant.images, images).amax())
        if not excess <= region.tolerance:
            raise RegionViolationError(f"{name} left {region} by {excess:.2e}")
        return self.answers_to(variant.images, name, rows)

    @contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        with (
            tensors_kept(self.view, buffers_only=True),
            tensors_kept(self.model, buffers_only=True) as changed,
        ):
            yield
        self.written.update(dict.fromkeys(changed))


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, count, _CHUNK)]
