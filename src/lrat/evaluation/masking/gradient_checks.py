"""Checks of the gradients: whether there are any, and whether they help more than chance."""

from torch import Tensor

from lrat.attacks.pgd import PGD
from lrat.errors import NoGradientError
from lrat.evaluation.masking import limits
from lrat.evaluation.masking.panel import Check
from lrat.evaluation.masking.subject import Subject
from lrat.losses import cross_entropy

VANISHING = "input gradients"
SATURATED = "saturated logits"
STEPS = "attack has converged"
NOISE = "gradients beat noise"


def pgd(subject: Subject, steps: int) -> PGD:
    """The panel's PGD: step epsilon / 4, uniform start, as in the paper's test attack."""
    return PGD(threat=subject.threat, steps=steps, step_size=subject.threat.epsilon / 4)


def robust_to_pgd(subject: Subject, steps: int) -> Tensor:
    """[n]: right when clean and under PGD of so many steps."""
    return subject.robust_to(f"pgd-{steps}", pgd(subject, steps))


def vanishing(subject: Subject) -> Check:
    """Share of the correctly classified images whose input gradient is nearly zero, or not finite.

    A model without gradients has failed.
    """
    try:
        largest = subject.gradients[subject.right]
    except NoGradientError as error:
        return limits.VANISHING.check_without_value(
            VANISHING,
            "failed",
            "Gradient attacks cannot work on this model: "
            f"{str(error).partition(';')[0].rstrip('.')}; attack it with Square, or replace the "
            "step without a derivative by a smooth one.",
        )
    count = int((~(largest > limits.VANISHED)).sum())
    share, status = limits.VANISHING.of_share(count, len(largest))
    return limits.VANISHING.check(
        *(VANISHING, share, status),
        good=f"The gradient is zero on {count} of {len(largest)} images only."
        if count
        else "Every image has a gradient that attacks can follow.",
        bad=f"On {100 * share:.1f} % of the correctly classified images the gradient is zero or no "
        "number, so gradient attacks do not move there; look for rounding, steps or huge logits in "
        "the model, and trust only attacks that need no gradient (Square).",
    )


def saturated(subject: Subject) -> Check:
    """Share of the correctly classified images whose cross-entropy is 0 in float32."""
    top = subject.clean[subject.right].topk(2, dim=1).values
    lead = top[:, 0] - top[:, 1]
    share, status = limits.SATURATED.of_share(int((lead > limits.SATURATION).sum()), len(lead))
    return limits.SATURATED.check(
        *(SATURATED, share, status),
        good="The softmax of these logits is not saturated.",
        bad=f"On {100 * share:.0f} % of the images the logits are so far apart (median lead "
        f"{float(lead.median()):.0f}) that the loss is exactly 0: divide the logits by a "
        "constant before attacking, or trust attacks on the margin alone (CW, targeted "
        "Auto-PGD).",
    )


def converged(subject: Subject) -> Check:
    """Fall of PGD's accuracy in the last doubling of its steps."""
    runs = [(f"pgd-{steps}", pgd(subject, steps)) for steps in limits.STEPS]
    robust = [subject.robust_to(*run) for run in runs]
    losses = [_mean_loss(subject, subject.after(*run)) for run in runs]
    gap, status = limits.STILL_FALLING.of_gap(*robust[-2:])
    rise = (losses[-1] - losses[-2]) / max(abs(losses[-1]), 1e-6)
    if status == "passed" and rise > limits.STILL_RISING:
        status = "suspicious"
    shares = ", ".join(map(percent, robust))
    numbers = f"accuracy after {', '.join(map(str, limits.STEPS))} steps: {shares} %"
    return limits.STILL_FALLING.check(
        *(STEPS, gap, status),
        good=f"More steps no longer help the attack ({numbers}).",
        bad=f"More steps still help the attack ({numbers}; the loss grew by "
        f"{100 * rise:.1f} % in the last doubling): use more until nothing changes.",
    )


def against_noise(subject: Subject) -> Check:
    """Of the images that noise or PGD of as many forwards fools, the share that noise fools."""
    by_gradient = subject.right & ~robust_to_pgd(subject, limits.NOISE_DRAWS)
    by_noise = subject.right & ~subject.robust_to_noise
    either = int((by_gradient | by_noise).sum())
    counts = f"{int(by_noise.sum())} against {int(by_gradient.sum())} of {subject.n}"
    if either == 0:
        return limits.NOISE.check_without_value(
            NOISE,
            "not run",
            "Neither noise nor PGD fools any image, so there is nothing to compare: look at the "
            "check with growing epsilon.",
        )
    share, status = limits.NOISE.of_share(int(by_noise.sum()), either)
    return limits.NOISE.check(
        *(NOISE, share, status),
        good=f"Gradients fool far more images than random noise does ({counts} for PGD).",
        bad=f"Random noise fools about as many images as gradients do ({counts} for PGD): "
        "the gradients are useless, or epsilon is so large that any change fools; attack "
        "without gradients (Square) and check epsilon.",
    )


def _mean_loss(subject: Subject, logits: Tensor) -> float:
    losses = cross_entropy(logits, subject.batch.labels)[subject.right]
    return float(losses.mean())


def percent(rows: Tensor) -> str:
    """``87.5``: the share of true values in ``rows`` [n], in percent."""
    return f"{100 * float(rows.float().mean()):.1f}"
