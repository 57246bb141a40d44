"""The limits of the checks of the masking panel, and their reasons.

A share or a gap is compared twice. Up to ``limit`` the check is passed. Above it the check has
failed if the lower end of the 95 % interval lies above ``certain``, else it is suspicious: chance
may explain it on so few images. ``certain`` is at most the largest value measured on sound models,
so a failed check means that chance does not explain the value for a sound model.

"Measured" are adversarially trained models (small networks on digits at L_inf .2 and on
Fashion-MNIST at L_inf .1; 256 to 1,000 images); "the paper" is Table 1 of LRAT (CIFAR-10).
"""

from dataclasses import dataclass

from torch import Tensor

from lrat.evaluation.masking.panel import Check, Status
from lrat.evaluation.statistics import paired_difference, wilson


@dataclass(frozen=True, kw_only=True)
class Limit:
    """See the module: passed up to ``limit``; failed when the interval begins above ``certain``."""

    limit: float
    certain: float

    def judge(self, value: float, low: float) -> Status:
        """The status of a value whose 95 % interval begins at ``low``."""
        if value <= self.limit:
            return "passed"
        return "failed" if low > self.certain else "suspicious"

    def of_share(self, count: int, n: int) -> tuple[float, Status]:
        """Of ``count`` of ``n`` images (Wilson); n >= 1."""
        share = wilson(count, n)
        return share.value, self.judge(share.value, share.low)

    def of_gap(self, a: Tensor, b: Tensor) -> tuple[float, Status]:
        """Of the accuracy under a minus that under b, both [n], on the same images (Tango)."""
        gap = paired_difference(int((a & ~b).sum()), int((b & ~a).sum()), len(a))
        return gap.value, self.judge(gap.value, gap.low)

    def check(self, name: str, value: float, status: Status, *, good: str, bad: str) -> Check:
        """The check of this name; its sentence is ``good`` where it is passed, else ``bad``."""
        sentence = good if status == "passed" else bad
        return Check(name=name, status=status, value=value, limit=self.limit, sentence=sentence)

    def check_without_value(self, name: str, status: Status, sentence: str) -> Check:
        """A check with nothing to measure."""
        return Check(name=name, status=status, value=None, limit=self.limit, sentence=sentence)

    def check_exact(self, name: str, value: float, *, good: str, bad: str) -> Check:
        """The same for a value that does not depend on chance."""
        return self.check(name, value, self.judge(value, low=value), good=good, bad=bad)


REPEATED_FORWARD = Limit(limit=1e-4, certain=1e-4)
"""Largest difference of logits between two forwards of the same images, relative to the largest
logit where that is above 1: AutoAttack's bound for a randomised defence (Croce et al. 2020)."""

BATCH_MATES = Limit(limit=1e-3, certain=1e-3)
"""The same for an image alone and among others. Other batch sizes sum in another order: 3e-7 was
measured; BatchNorm with the statistics of the batch gives .1 and more."""

PROBABILITIES = Limit(limit=0.5, certain=0.5)
"""Outputs that look like probabilities count 1, logits 0."""

VANISHED = 1e-12
"""A gradient of the cross-entropy with all entries up to this is (nearly) zero. A float32 softmax
underflows to this when one logit leads by 28; measured models have 4e-5 and more."""

VANISHING = Limit(limit=0.01, certain=0.01)
"""Share of the correctly classified images with a vanished gradient: a cause of masking by itself
(Athalye et al. 2018). Measured 0."""

SATURATION = 17.0
"""A logit that leads by so much has probability 1 in float32 (2 ** -24 is lost beside 1): the
cross-entropy is exactly 0 and half of its gradient with it (Carlini & Wagner 2017 on distillation).
Measured models lead by .3 to 5 in the median."""

SATURATED = Limit(limit=0.10, certain=0.10)
"""Share of the correctly classified images that lead by SATURATION. Measured 0."""

STEPS = (10, 20, 40, 80)
"""Steps of PGD, whose accuracy must no longer fall in the last doubling."""

STILL_FALLING = Limit(limit=0.01, certain=0.005)
"""Fall of accuracy from 40 to 80 steps: more steps must not help (Carlini et al. 2019).
Measured 0."""

STILL_RISING = 0.05
"""A relative rise of the mean loss in the last doubling that makes a passed check suspicious.
Measured .006 and less."""

NOISE_DRAWS = 20
"""Uniform draws from the ball, against a PGD of as many forwards."""

NOISE = Limit(limit=0.5, certain=0.5)
"""Of the images that noise or PGD fools, the share that noise fools: random search must not do
better than gradients (Athalye et al. 2018; Carlini et al. 2019)."""

DISAGREEMENT = Limit(limit=0.07, certain=0.03)
"""Accuracy under PGD-20 minus that under CW-20, targeted Auto-PGD and all other attacks. SAT: 5.0
points in the paper, .4 to 4.0 measured, 4 to 11 after two epochs on digits. GAIRAT: 28.7 in the
paper, 7 to 18 measured. It shows that PGD overstates, not why: the paper's LSAT-SAA has 8.1,
without GAIRAT's other sign, SCALING. So alone it makes a model suspicious; it has failed where
another check of hidden gradients has."""

TARGETED_STEPS = 20
"""Targeted Auto-PGD of the panel: a short form of AutoAttack's, which has 100 steps."""

SCALES = (0.1, 1.0, 10.0, 100.0)
"""Factors on the logits before PGD's cross-entropy; scaling changes no prediction, so it must not
change the verdict (Hitaj et al. 2021 on GAIRAT)."""

SCALING = Limit(limit=0.04, certain=0.02)
"""Accuracy under PGD-20 minus that under the best of the scales. Measured: SAT -.06 to .03,
LRAT-SAA+CW .007 to .027; GAIRAT .033 to .098, .06 and more except for one. After two epochs of SAT
on digits PGD may be as wrong as on GAIRAT (.00 to .22), and the check fails."""

GROWTH = (2.0, 4.0, 8.0)
"""Multiples of epsilon before the whole box."""

UNBOUNDED = Limit(limit=0.01, certain=0.01)
"""Accuracy when the ball contains every image: an unbounded attack must always succeed (Athalye et
al. 2018). Measured 0."""

QUERIES = 1000
"""Square's queries for each image."""

LONG_STEPS = 100
"""Steps of Auto-PGD on the images that only black-box search fools, twice per target."""

SECOND_TRY = 0.02
"""Up to this share of images is attacked again, which clears one image in 256 of a sound model; if
black-box search fools more, short gradient runs cannot be the reason."""

BLACK_BOX = Limit(limit=0.002, certain=0.005)
"""Share of images that Square or noise fools and no gradient attack: AutoAttack flags .2 points
(Croce et al. 2022); gradients hold more information than queries, so a larger share is masking."""

GREY = Limit(limit=0.05, certain=0.5)
"""Share of images that an attack in the ball can replace by plain grey. If it can replace all, no
classifier can distinguish classes."""

HALF_A_LEVEL = 0.5 / 255
"""Smaller changes of a pixel vanish when an image is saved with 8 bits."""

CONSTANT = Limit(limit=0.01, certain=0.01)
"""Share of images that are one colour throughout."""

NARROW = 0.1
"""Pixels of all images together that span less than this were probably scaled twice."""
