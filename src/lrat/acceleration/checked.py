"""A view that is checked against its original, and replaced by a simpler one where it differs."""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrat.acceleration.choice import choose, describe, disagreement
from lrat.acceleration.observe import OBSERVED
from lrat.acceleration.view import Choices, FastView, PlainView, View
from lrat.checks import MODULE, Rule, checked, optional
from lrat.errors import LratError, NoGradientError
from lrat.modes import tensors_kept
from lrat.outputs import forward_logits, is_memory_error
from lrat.randomness import random_state_kept
from lrat.text import in_one_line
from lrat.types import Images, Logits

_logger = logging.getLogger(__name__)
_PROBED = 128
_CHECKED = 16
"""The numbers of images on which a view is compared with its original: before its first use, and at
each later check."""


class CheckedView(View):
    """The fastest view of a model that agrees with it.

    A view that raises, or no longer agrees with the original, is replaced by the next simpler one,
    at last by the plain model, with a warning and a sentence in ``notes``. See ``accelerate``.
    """

    def __init__(
        self, original: nn.Module, images: Images | None = None, choices: Choices | None = None
    ) -> None:
        super().__init__()
        self.__dict__["original"] = original
        self._reported = 0
        self._requested = choices
        self._probe: Images | None = None
        self._use(PlainView(original))
        if images is not None and len(images):
            self._begin(images)
        self.training = False  # a view has no modes

    @property
    def is_plain(self) -> bool:
        return self.current.is_plain

    def forward(self, images: Images) -> Logits:
        if self._probe is None and len(images):
            self._begin(images)
        while True:
            before = _version(images)
            try:
                logits: Logits = self.current(images)
            except Exception as error:
                if not self.gives_way(error) or _version(images) != before:
                    raise
            else:
                return logits

    def begin_attack(self) -> None:
        self.current.begin_attack()

    def gives_way(self, error: Exception) -> bool:
        """Replace a view that raised ``error``; False where another one would raise it too."""
        cause = error.__cause__ or error
        # An error of lrat without a cause is not about the model.
        if self.is_plain or is_memory_error(error) or isinstance(cause, LratError):
            return False
        if isinstance(error, NoGradientError):
            return False
        self._leave(f"it raised {in_one_line(cause)}", _simpler(self.choices))
        return True

    def refresh(self) -> "CheckedView":
        """Take over all changes of the original."""
        try:
            self._use(self.current.refresh())
        except Exception as error:
            if not self.gives_way(error):
                raise
        return self

    def use(self, choices: Choices) -> None:
        if choices != self.choices:
            self._try([choices, *_simpler(choices)])

    def check(self) -> tuple[str, ...]:
        """Refresh, compare with the original on a few images, and return the notes since the last
        check. There are notes where attacks since then may have used another function than the
        model."""
        self.refresh()
        if not self.is_plain and self._probe is not None:
            problem = disagreement(self.current, self._probe[:_CHECKED])
            if problem is not None:
                # In float32 the cause is not the precision: the view has missed a change.
                low = self.choices.precision != "float32"
                self._leave(problem, _simpler(self.choices) if low else [])
        new, self._reported = self.notes[self._reported :], len(self.notes)
        return new

    def _begin(self, images: Images) -> None:
        with torch.inference_mode(False):
            self._probe = images.detach()[:_PROBED].clone()
            choices = self._requested or choose(self.original, self._probe)
            self._try([choices, *_simpler(choices)])
        if not self.is_plain:
            _logger.info("attacks see the model in %s", describe(self))

    def _leave(self, reason: str, simpler: list[Choices]) -> None:
        previous = self.choices
        self._try(simpler)
        note = (
            f"the view of the model in {previous} was left: {reason}; attacks before may have been "
            f"weaker, from now on they see it in {self.choices}"
        )
        _logger.warning(note)
        self.notes = (*self.notes, note)

    def _try(self, candidates: list[Choices]) -> None:
        """Use the first of them that agrees with the original, else the plain model."""
        probe = self._probe
        if probe is None:
            return
        for candidate in candidates:
            if candidate == Choices.plain():
                continue
            try:
                view = FastView(self.original, candidate, probe)
                problem = disagreement(view, probe)
                _go_backward(view, probe)
            except Exception as error:
                problem = in_one_line(error.__cause__ or error)
            if problem is None:
                self._use(view)
                return
            _logger.warning("the view in %s is refused: %s", candidate, problem)
        self._use(PlainView(self.original))

    def _use(self, view: View) -> None:
        self.current = view
        self.choices, self.folded, self.unfolded = view.choices, view.folded, view.unfolded


def _pixels(value: Any) -> Images:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError
    return value


def _choices(value: Any) -> Choices:
    if not isinstance(value, Choices):
        raise TypeError
    return value


@checked(
    model=MODULE,
    images=optional(Rule(_pixels, "a tensor of images, floats in [0, 1]", "images[:64]")),
    choices=optional(Rule(_choices, "Choices", "view.choices")),
)
def accelerate(
    model: nn.Module, images: Images | None = None, *, choices: Choices | None = None
) -> CheckedView:
    """The attack's view of ``model``: eval mode, frozen, BatchNorm folded, as fast as possible.

    The view is chosen and checked on ``images`` [B C H W], by default those of the first forward.
    The choices follow from the device and the model's FLOP; the view must reproduce the original's
    logits to 1e-4 in float32, and the class on 99.5 % of images in low precision. A view that does
    not, or that raises, is refused with a warning, and the next simpler one is used, at last the
    plain model. ``choices``: those of an earlier view (``view.choices``), which are checked too.

    Layers that cannot be folded stay as they are. Call ``view.refresh()`` after each change of the
    model; ``view.check()`` compares again.
    """
    return CheckedView(model, images, choices)


def _go_backward(view: View, images: Images) -> None:
    """Compute one image gradient, since some models raise only there."""
    with torch.enable_grad(), random_state_kept(), tensors_kept(view, buffers_only=True):
        few = images[:OBSERVED].clone().requires_grad_()
        logits = forward_logits(view, few)
        if logits.requires_grad:
            torch.autograd.backward(logits.sum())


def _simpler(choices: Choices) -> list[Choices]:
    """The choices to try after these, each with one change more."""
    plainer = Choices(fold=choices.fold, channels_last=choices.channels_last)
    order = [
        replace(choices, channels_last=False, compiled=False, graphs=False),
        plainer,
        replace(plainer, channels_last=False),
    ]
    return [each for each in dict.fromkeys(order) if each not in (choices, Choices.plain())]


def _version(images: Images) -> int:
    return 0 if images.is_inference() else images._version
