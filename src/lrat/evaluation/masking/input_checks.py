"""Checks of the images and of the logits, without attacks and gradients."""

import torch
from torch import Tensor

from lrat.errors import LratError
from lrat.evaluation.examination import looks_squashed
from lrat.evaluation.masking import limits
from lrat.evaluation.masking.panel import Check, Status
from lrat.evaluation.masking.subject import Subject
from lrat.evaluation.outcomes import NATURAL
from lrat.threat import Ball

_COMPANY = 16
"""The number of images that are classified alone and among others: one forward each."""

RANGE = "range and epsilon"
LOGITS = "logits, not probabilities"
REPEATED = "same images, same answer"
ALONE = "no influence of the batch"


def image_range(images: Tensor, threat: Ball) -> Check:
    """Whether images [n C H W] and epsilon have the same scale. The value is epsilon."""
    status, sentence = _range_finding(images, threat)
    return Check(
        name=RANGE,
        status=status,
        value=float(threat.epsilon),
        limit=float(threat.distance(torch.full_like(images, 0.5), images).median()),
        sentence=sentence,
    )


def _range_finding(images: Tensor, threat: Ball) -> tuple[Status, str]:
    low, high = float(images.min()), float(images.max())
    flat = images.flatten(1)
    n = len(images)
    if not (low >= 0 and high <= 1):  # true for NaN too
        return "failed", (
            f"The images run from {low:g} to {high:g} and must lie in [0, 1]: scale them and put "
            "the normalisation into the model."
        )
    if threat.epsilon == 0:
        return "failed", "Epsilon is 0, so nothing is attacked: choose one above 0."
    if n > 1 and high - low < limits.NARROW:
        return "failed", (
            f"All pixels lie between {low:.3g} and {high:.3g}: the images were probably divided "
            "by 255 twice, which makes epsilon far too large; scale them to fill [0, 1]."
        )
    constant = int((flat.amax(1) == flat.amin(1)).sum())
    share, status = limits.CONSTANT.of_share(constant, n)
    if status != "passed":
        return status, (
            f"{100 * share:.1f} % of the images are one colour throughout: look at the images, "
            "the data set is probably read wrongly."
        )
    grey = threat.distance(torch.full_like(images, 0.5), images) <= threat.epsilon
    share, status = limits.GREY.of_share(int(grey.sum()), n)
    if status != "passed":
        return status, (
            f"Epsilon is so large that plain grey may replace {100 * share:.0f} % of the images, "
            "so that no classifier can be right: choose a smaller epsilon (8/255, not 8)."
        )
    if threat.epsilon < limits.HALF_A_LEVEL:
        return "suspicious", (
            "Epsilon is less than half a grey level of an 8-bit image, so almost all images are "
            "robust: check that it was not divided by 255 twice."
        )
    return "passed", "The images fill [0, 1] and epsilon is of a sensible size for them."


def real_logits(subject: Subject) -> Check:
    """Whether the outputs are probabilities (1) or not (0). Raises ``NonFiniteError``."""
    return limits.PROBABILITIES.check_exact(
        *(LOGITS, float(looks_squashed(subject.clean))),
        good="The model returns finite logits, as attacks need them.",
        bad="The model returns probabilities, whose gradients vanish near 0 and 1: remove its last "
        "softmax (or sigmoid) and evaluate again.",
    )


def repeated(subject: Subject) -> Check:
    """Largest relative difference of logits between two forwards of the same images."""
    again = subject.answers_to(subject.batch.images, NATURAL)
    value = _relative_difference(subject.clean, again)
    flips = int((subject.clean.argmax(1) != again.argmax(1)).sum())
    return limits.REPEATED_FORWARD.check_exact(
        *(REPEATED, value),
        good="Two forwards of the same images give the same logits.",
        bad=f"The model answers the same images differently each time ({flips} of {subject.n} "
        "change class), so single gradients mislead: switch its randomness off (dropout, noise), "
        "or let attacks average gradients over many forwards.",
    )


def alone(subject: Subject) -> Check:
    """Largest relative difference between an image's logits alone and among other images."""
    images = subject.batch.images[:_COMPANY]
    rows = torch.arange(len(images), device=images.device)[:, None]
    try:
        company = torch.cat([images, 1 - images])
        among = subject.answers_to(company, NATURAL, rows[:, 0].repeat(2))[: len(images)]
        singly = [subject.answers_to(images[row], NATURAL, row) for row in rows]
    except LratError as error:
        reason = str(error).splitlines()[0]
        return limits.BATCH_MATES.check_without_value(
            ALONE,
            "failed",
            f"The model cannot classify a single image ({reason}): set its BatchNorm to running "
            "statistics, as model.eval() should.",
        )
    value = _relative_difference(among, torch.cat(singly))
    return limits.BATCH_MATES.check_exact(
        *(ALONE, value),
        good="An image has the same logits alone as among others.",
        bad="The answer for an image changes with the images beside it, or from call to call: "
        "BatchNorm or dropout still works as in training; make the model obey model.eval().",
    )


def _relative_difference(one: Tensor, other: Tensor) -> float:
    scale = one.abs().amax().clamp(min=1)
    return float((one - other).abs().amax() / scale)
