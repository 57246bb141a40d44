"""The whole panel on one model."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.checks import MODULE, Rule, checked, instance
from lrat.errors import DataError, LratError, NonFiniteError, SettingError
from lrat.evaluation.examination import beside_answers, in_train_mode, writing
from lrat.evaluation.forward import check_labels
from lrat.evaluation.masking import attack_checks, gradient_checks, input_checks
from lrat.evaluation.masking.panel import Check, Panel
from lrat.evaluation.masking.subject import Subject
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.suites import describe_threat
from lrat.hardware import device_of
from lrat.modes import usual_autograd
from lrat.randomness import seeded_randomness
from lrat.threat import BALL, Ball
from lrat.types import Batch

_Make = Callable[[Subject], Check]

_FORWARD: dict[str, _Make] = {
    input_checks.REPEATED: input_checks.repeated,
    input_checks.ALONE: input_checks.alone,
}
_OF_RIGHT: dict[str, _Make] = {
    gradient_checks.VANISHING: gradient_checks.vanishing,
    gradient_checks.SATURATED: gradient_checks.saturated,
}
_ATTACKING: dict[str, _Make] = {
    gradient_checks.STEPS: gradient_checks.converged,
    gradient_checks.NOISE: gradient_checks.against_noise,
    attack_checks.AGREEMENT: attack_checks.agreement,
    attack_checks.SCALING: attack_checks.scaling,
    attack_checks.GROWTH: attack_checks.growth,
    attack_checks.BLACK_BOX: attack_checks.black_box,
}


def _batch(value: Any) -> Batch:
    count = len(value.labels)
    shapes = value.images.shape[:1], value.labels.shape, value.index.shape
    if not isinstance(value, Batch) or value.images.ndim != 4 or set(shapes) != {(count,)}:
        raise TypeError
    return value


@usual_autograd()
@checked(
    batch=Rule(_batch, "a Batch of images [B C H W]", "data.batch(torch.arange(256))"),
    threat=BALL,
    view=MODULE,
    result=instance(EvaluationResult, need="the result of an evaluation", example="evaluate(...)"),
)
def masking_panel(
    model: nn.Module,
    batch: Batch,
    threat: Ball,
    *,
    view: nn.Module | None = None,
    seed: int = 0,
    result: EvaluationResult | None = None,
    on_progress: Callable[[Check], None] | None = None,
) -> Panel:
    """Twelve checks of whether attacks on ``model`` are reliable, on the images of ``batch``.

    A model that hides its gradients appears robust, but another attack fools it (Athalye et al.
    2018; Carlini et al. 2019; Tramer et al. 2020); the panel looks for the signs. 256 images are
    enough for strong masking; with fewer, gaps are suspicious rather than failed (see ``limits``).

    ``view``: the model that attacks use instead of ``model`` (an accelerated one); verdicts and
    gradients are the original's, in float32. ``seed``: that of all noise, with the images' indices.
    ``result``: an evaluation of the same model under the same threat, whose fooled images count
    too. ``on_progress`` is called with each finished check.

    A check that cannot run is "not run", with the reason; a model without gradients or with NaN
    logits has failed. Raises ``DataError`` for no images and negative labels, ``SettingError`` for
    a ``result`` under another threat, ``ModelError`` for outputs that are no logits of the labels'
    classes. Modes and the global random state are restored, also for a model that draws random
    numbers.
    """
    if len(batch) == 0:
        raise DataError("there are no images to check: pass at least one")
    if int(batch.labels.min()) < 0:
        raise DataError(f"labels start at 0, found {int(batch.labels.min())}")
    device = device_of(model) or batch.images.device
    subject = Subject(
        model=model,
        view=model if view is None else view,
        batch=batch.to(device),
        threat=threat,
        seed=seed,
    )
    if result is not None:
        subject.also_fooled.update(_fooled(result, subject))
    checks: list[Check] = []
    notes = in_train_mode(model)
    with seeded_randomness(seed):
        for check in _checks(subject):
            checks.append(check)
            if on_progress is not None:
                on_progress(check)
        notes += _beside_checks(subject)
    notes += writing(model, tuple(subject.written))
    if isinstance(view, View):
        notes += view.check()
    threat_text = describe_threat(threat)
    return Panel(checks=tuple(checks), n=subject.n, threat=threat_text, notes=notes)


def _beside_checks(subject: Subject) -> tuple[str, ...]:
    try:
        return beside_answers(subject.model, subject.clean)
    except LratError:  # a check has reported it
        return ()


def _checks(subject: Subject) -> Iterator[Check]:
    """One check for each name, in order; checks that a failed one makes useless are not run."""
    yield input_checks.image_range(subject.batch.images, subject.threat)
    rest = [*_FORWARD, *_OF_RIGHT, *_ATTACKING]
    low, high = float(subject.batch.images.min()), float(subject.batch.images.max())
    if subject.threat.epsilon == 0 or not (low >= 0 and high <= 1):
        yield from _skipped(
            [input_checks.LOGITS, *rest], "images and epsilon must be put right first"
        )
        return
    try:
        check_labels(subject.batch.labels, subject.classes)
    except NonFiniteError as error:
        yield _failed(input_checks.LOGITS, error)
        yield from _skipped(rest, "the logits must be finite first")
        return
    yield input_checks.real_logits(subject)
    for name, make in _FORWARD.items():
        yield _check(name, make, subject)
    if not bool(subject.right.any()):
        reason = "the model classifies none of the images correctly, so none can be attacked"
        yield from _skipped([*_OF_RIGHT, *_ATTACKING], reason)
        return
    checks = [_check(name, make, subject) for name, make in _OF_RIGHT.items()]
    yield from checks
    if checks[0].status == "failed" and checks[0].value is None:
        yield from _skipped(_ATTACKING, "the model has no gradients that attacks could follow")
        return
    for name, make in _ATTACKING.items():
        yield _check(name, make, subject)


def _check(name: str, make: _Make, subject: Subject) -> Check:
    try:
        return make(subject)
    except NonFiniteError as error:
        return _failed(name, error)
    except LratError as error:
        return _not_run(name, str(error).rstrip("."))


def _failed(name: str, error: NonFiniteError) -> Check:
    sentence = f"The model breaks down: {error}; find where it divides by 0 or overflows."
    return Check(name=name, status="failed", value=None, limit=None, sentence=sentence)


def _not_run(name: str, reason: str) -> Check:
    sentence = f"Not run: {reason}."
    return Check(name=name, status="not run", value=None, limit=None, sentence=sentence)


def _skipped(names: Iterable[str], reason: str) -> Iterator[Check]:
    yield from map(partial(_not_run, reason=reason), names)


def _fooled(result: EvaluationResult, subject: Subject) -> dict[str, Tensor]:
    """The subject's images that each attack of ``result`` fooled; missing ones count as robust."""
    if result.threat != describe_threat(subject.threat):
        raise SettingError(
            f"the result was made under {result.threat}, the panel is under "
            f"{describe_threat(subject.threat)}: pass one under the same threat"
        )
    index = subject.batch.index.cpu().numpy()
    known = np.isin(index, result.index)
    fooled = {}
    for name in result.names:
        if name == NATURAL or not known.any():
            continue
        rows = np.zeros(len(index), dtype=bool)
        rows[known] = result.outcomes.under(name).at(index[known]).fooled
        fooled[name] = torch.from_numpy(rows).to(subject.batch.labels.device)
    return fooled
