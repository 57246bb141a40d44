"""Checks of the gradients themselves: are there any, do they lead anywhere, better than chance?"""

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
    """The panel's PGD: step epsilon / 4, uniform start, as the paper's test attack."""
    return PGD(threat=subject.threat, steps=steps, step_size=subject.threat.epsilon / 4)


def vanishing(subject: Subject) -> Check:
    """Share of the correctly classified images whose input gradient is nearly zero, or not finite.

    A model without gradients has failed.
    """
    try:
        largest = subject.gradients[subject.right]
    except NoGradientError as error:
        return Check(
            name=VANISHING,
            status="failed",
            value=None,
            limit=limits.VANISHING.limit,
            sentence=(
                "Gradient attacks cannot work on this model: "
                f"{str(error).partition(';')[0].rstrip('.')}; attack it with Square, or replace "
                "the step without a derivative by a smooth one."
            ),
        )
    count = int((~(largest > limits.VANISHED)).sum())
    share, status = limits.VANISHING.of_share(count, len(largest))
    return Check(
        name=VANISHING,
        status=status,
        value=share,
        limit=limits.VANISHING.limit,
        sentence=(
            "Every image has a gradient that attacks can follow."
            if count == 0
            else f"On {100 * share:.1f} % of the correctly classified images the gradient is zero "
            "or no number, so gradient attacks stand still there; look for rounding, steps or huge "
            "logits in the model, and trust only attacks that need no gradient (Square)."
            if status != "passed"
            else f"The gradient is zero on {count} of {len(largest)} images only."
        ),
    )


def saturated(subject: Subject) -> Check:
    """Share of the correctly classified images whose cross-entropy is 0 in float32."""
    top = subject.clean[subject.right].topk(2, dim=1).values
    lead = top[:, 0] - top[:, 1]
    share, status = limits.SATURATED.of_share(int((lead > limits.SATURATION).sum()), len(lead))
    return Check(
        name=SATURATED,
        status=status,
        value=share,
        limit=limits.SATURATED.limit,
        sentence=(
            "The logits are of a size that the softmax can tell apart."
            if status == "passed"
            else f"On {100 * share:.0f} % of the images the logits are so far apart (median lead "
            f"{float(lead.median()):.0f}) that the loss is exactly 0: divide the logits by a "
            "constant before attacking, or trust attacks on the margin alone (CW, targeted "
            "Auto-PGD)."
        ),
    )


def converged(subject: Subject) -> Check:
    """Fall of PGD's accuracy in the last doubling of its steps."""
    runs = [(f"pgd-{steps}", pgd(subject, steps)) for steps in limits.STEPS]
    stands = [subject.standing(*run) for run in runs]
    losses = [_mean_loss(subject, subject.after(*run)) for run in runs]
    before, after = stands[-2], stands[-1]
    gap, status = limits.STILL_FALLING.of_gap(
        int((before & ~after).sum()), int((after & ~before).sum()), subject.n
    )
    rise = (losses[-1] - losses[-2]) / max(abs(losses[-1]), 1e-6)
    if status == "passed" and rise > limits.STILL_RISING:
        status = "suspicious"
    shares = ", ".join(f"{100 * float(each.float().mean()):.1f}" for each in stands)
    numbers = f"accuracy after {', '.join(map(str, limits.STEPS))} steps: {shares} %"
    return Check(
        name=STEPS,
        status=status,
        value=gap,
        limit=limits.STILL_FALLING.limit,
        sentence=(
            f"More steps no longer help the attack ({numbers})."
            if status == "passed"
            else f"The attack still gains from more steps ({numbers}; the loss grew by "
            f"{100 * rise:.1f} % in the last doubling): use more until nothing changes."
        ),
    )


def against_noise(subject: Subject) -> Check:
    """Of the images that noise or PGD of as many forwards fools, the share that noise fools."""
    by_gradient = subject.right & ~subject.standing("pgd-20", pgd(subject, limits.NOISE_DRAWS))
    by_noise = subject.right & ~standing_noise(subject)
    either = int((by_gradient | by_noise).sum())
    counts = f"{int(by_noise.sum())} against {int(by_gradient.sum())} of {subject.n}"
    if either == 0:
        return Check(
            name=NOISE,
            status="not run",
            value=None,
            limit=limits.NOISE.limit,
            sentence=(
                "Neither noise nor PGD fools any image, so there is nothing to compare: look at "
                "the check with growing epsilon."
            ),
        )
    share, status = limits.NOISE.of_share(int(by_noise.sum()), either)
    return Check(
        name=NOISE,
        status=status,
        value=share,
        limit=limits.NOISE.limit,
        sentence=(
            f"Gradients fool far more images than random noise does ({counts} for PGD)."
            if status == "passed"
            else f"Random noise fools about as many images as gradients do ({counts} for PGD): "
            "the gradients are no guide, or epsilon is so large that anything works; attack "
            "without gradients (Square) and check epsilon."
        ),
    )


def standing_noise(subject: Subject) -> Tensor:
    """[n]: right when clean and under every one of NOISE_DRAWS uniform draws from the ball."""
    stands = subject.right.clone()
    for draw in range(limits.NOISE_DRAWS):
        rows = stands.nonzero().flatten()
        if len(rows) == 0:
            break
        noise = subject.noise.select(rows).child("draw").child(draw)
        images = subject.threat.sample(subject.batch.images[rows], noise)
        answers = subject.answers_to(images, "noise", rows)
        stands[rows] = answers.argmax(1) == subject.batch.labels[rows]
    return stands


def _mean_loss(subject: Subject, logits: Tensor) -> float:
    losses = cross_entropy(logits, subject.batch.labels)[subject.right]
    return float(losses.mean())
