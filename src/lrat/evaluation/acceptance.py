"""Whether a model takes its images: one and many in eval mode, a batch in train mode.

A model that does not is refused in one line, with the batch size that would work.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from lrat.data.inputs import channels_cure, from_zero
from lrat.errors import ModelError
from lrat.modes import all_kept, evaluating, forward_tried, tensors_kept, training_modes
from lrat.outputs import failing_in_one_line, forward_logits, tensors_in
from lrat.randomness import random_state_kept
from lrat.text import in_one_line

SMALLER_BATCH = "pass batch_size={size} (--batch-size {size})"
NO_LIMIT = "take the limit out of the model, which must take so many images at once here"
"""The cure where no option sets the batch size."""
_USUAL_SIZES = (1, 4, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 256)
"""Batch sizes for which networks are often written."""


def check_forward(
    model: nn.Module, images: Tensor, *, classes: int, data: str, smallest: int = 0
) -> int:
    """Forward these images [B C H W], and the first of them alone, in eval mode; returns the
    model's number of classes.

    ``ModelError`` where the model fails (with a batch size that works), returns no logits [B K], or
    has fewer than the ``classes`` of ``data``. It may have more, since a test set may lack classes.
    ``smallest``: the smallest label of ``data``.
    """
    with forward_tried(model), evaluating(model), torch.no_grad():
        try:
            known = forward_logits(model, images).shape[1]
        except ModelError as error:
            cause = in_one_line(error.__cause__ or error)
            likely = {*_USUAL_SIZES, *map(int, re.findall(r"\b\d{1,3}\b", cause))}
            size = next(_taken(model, images, sorted(likely - {0, len(images)})), None)
            if size is None:
                raise ModelError(f"{error}{channels_cure(images.shape[1:])}") from error
            raise ModelError(
                f"the model takes batches of {size} images, not of {len(images)} ({cause}): "
                f"write -1 or len(images) where its forward holds {size}, as .view(-1, K) or "
                ".flatten(1); attacks go on with the images that are left, so that no batch_size "
                "cures it"
            ) from error
        if len(images) > 1:
            try:
                forward_logits(model, images[:1])
            except ModelError as error:
                raise ModelError(
                    f"{error} ({len(images)} images pass, but attacks go on with the images that "
                    "are left, at last a single one)"
                ) from error
    if known < classes:
        cure = from_zero(smallest, classes - 1, known)
        raise ModelError(f"the model knows {known} classes, {data} has {classes}: {cure}")
    return known


@contextmanager
def explaining_limit(model: nn.Module, images: Tensor, cure: str = NO_LIMIT) -> Iterator[None]:
    """Around a forward of these images in eval mode: where the model fails, but takes half, a
    quarter, ... of them, the error names that ``size`` and this ``cure``, which may contain it."""
    try:
        yield
    except ModelError as error:
        sizes = (len(images) >> power for power in range(len(images).bit_length()))
        with tensors_kept(model, buffers_only=True), evaluating(model), torch.no_grad():
            size = next(_taken(model, images, sizes), len(images))
        if size == len(images):
            raise
        cause = in_one_line(error.__cause__ or error)
        raise ModelError(
            f"the model takes {size} images at once, not {len(images)} ({cause}): "
            + cure.format(size=size)
        ) from error


def _taken(model: nn.Module, images: Tensor, counts: Iterable[int]) -> Iterator[int]:
    """The batch sizes among ``counts`` with which the model works."""
    for count in counts:
        rows = torch.arange(count, device=images.device) % len(images)
        with suppress(ModelError):
            forward_logits(model, images[rows])
            yield count


def check_training(
    model: nn.Module,
    smallest: Tensor,
    others: Iterable[tuple[int, Sequence[Tensor]]],
    *,
    classes: int,
    what: str,
    reads_logits: bool = True,
) -> None:
    """Forward the ``smallest`` batch of an epoch [B C H W] in train mode; the model is restored.

    ``what`` describes that batch; ``others``: other batch sizes with their batches.
    ``reads_logits``: whether the objective uses the logits in the model's output, else the whole
    output. ``ModelError`` where the model fails (BatchNorm on 1x1 maps refuses a single image), has
    another number of ``classes`` than in eval mode, or an output without gradient.
    """

    def answer(images: Tensor) -> list[Tensor]:
        if reads_logits:
            return [forward_logits(model, images)]
        with failing_in_one_line(model, images):
            return tensors_in(model(images.clone()))

    def passes(batches: Sequence[Tensor]) -> bool:
        with suppress(ModelError):
            return all(map(answer, batches))
        return False

    with random_state_kept(), all_kept(model), training_modes(model), torch.enable_grad():
        try:
            outputs = answer(smallest)
        except ModelError as error:
            cause = in_one_line(error.__cause__ or error)
            size = next((size for size, batches in others if passes(batches)), None)
            if size is None:
                raise ModelError(f"the model fails in train mode: {cause}") from error
            raise ModelError(
                f"the model fails in training on {what}: {cause}; choose batch_size={size} "
                f"(--set training.batch_size={size})"
            ) from error
        if reads_logits and outputs[0].shape[1] != classes:
            raise ModelError(
                f"in train mode the model gives {outputs[0].shape[1]} classes, in eval mode "
                f"{classes}: both must answer for the same classes"
            )
        is_trained = any(value.requires_grad for value in model.parameters())
        if is_trained and not any(value.requires_grad for value in outputs):
            raise ModelError(
                "in train mode no gradient leaves the model's answer, so it cannot learn: take "
                "detach() or no_grad() out of its forward"
            )
