"""What a report shows: ``collect`` gathers it from run folders, ``page`` draws it.

Results are shown by evaluation's own types; the records here say to which run and which group of
runs they belong. Shares are fractions, images are arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from lrat.evaluation.comparison.pairs import Contrast
from lrat.evaluation.curve_result import Curve
from lrat.evaluation.masking.panel import Panel
from lrat.evaluation.statistics import Proportion

CLEAN, ROBUST = "training, clean", "training, under attack"
HELD_OUT, MONITORED = "held out, ", "monitored, "
"""How the accuracies that training measures are called; the latter before an attack's name."""

State = Literal["evaluated", "trained", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """What one attack of an evaluation left. ``forwards``, ``backwards``: mean passes per image.
    ``stages``: of a cascade, what is left after each. ``settings``: as the evaluation stored
    them."""

    name: str
    share: Proportion
    settings: str
    forwards: float
    backwards: float
    stages: Mapping[str, Proportion] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """A finished evaluation. ``group``: evaluations with equal ones attacked the same images
    under the same threat and suite, and may be compared. ``attacks``: ``natural`` first."""

    folder: str
    group: str
    data: str
    suite: str
    threat: str
    seed: int
    images: int
    checkpoint: str
    attacks: Sequence[AttackRecord]
    worst_case: Proportion
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Overfitting:
    """How far robust accuracy fell after its best epoch. ``on``: the attack and images it was
    measured with; differences of ``n`` images' noise size are no mark (``marked`` False)."""

    on: str
    best_epoch: int
    best: float
    last: float
    n: int | None
    marked: bool


@dataclass(frozen=True, kw_only=True)
class TermWeights:
    """Raw weights of one term over the recorded epochs. ``counts[epoch, bin]`` between
    ``edges[bin]`` and ``edges[bin + 1]``, of which the last may be infinite; ``effective``: Kish's
    effective sample size as a share of the images; ``below``: the share of weights below .2."""

    term: str
    epochs: Sequence[int]
    mean: Sequence[float]
    effective: Sequence[float]
    below: Sequence[float]
    edges: Sequence[float]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class OverlapRecord:
    """Overlap of sets of vulnerable images. ``jaccard[a][b]`` between ``names[a]`` and
    ``names[b]``, ``chance[a][b]`` what random sets of these sizes would give. ``about``: one
    sentence on what the sets are, with n."""

    about: str
    names: Sequence[str]
    jaccard: Sequence[Sequence[float]]
    chance: Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked:
    """An image as one attack returned it. ``image`` [H, W, C] float32 in [0, 1].
    ``probabilities`` [K]. ``attacked`` False: the attack left it alone, as it was fooled before.
    """

    image: npt.NDArray[Any]
    prediction: int
    probabilities: npt.NDArray[Any]
    fooled: bool
    attacked: bool
    margin: float
    distance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryImage:
    """A test image: ``image`` [H, W, C] float32 in [0, 1], its number, and every attack's."""

    index: int
    label: int
    image: npt.NDArray[Any]
    natural: Attacked
    attacks: Mapping[str, Attacked]


@dataclass(frozen=True, kw_only=True, eq=False)
class GalleryRecord:
    """Images of an evaluation. ``epsilon``: the threat's radius in its ``norm``, None for a
    region without one. ``about``: how the images were chosen, of how many."""

    class_names: Sequence[str]
    norm: str | None
    epsilon: float | None
    about: str
    images: Sequence[GalleryImage]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training took: mean passes per image and epoch, by kind as ``attack forwards``,
    seconds of training steps over all epochs, images per second, parameters of the network."""

    passes: Mapping[str, float]
    seconds: float
    epochs: int
    images: int
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """A run folder. ``name``: unique in the report, short. ``evaluations``: the one that the
    report compares first. ``accuracy``: what training measured, by name and epoch; ``notices``:
    what its guards said, by epoch. ``problems``: in one sentence each, with the command that
    helps, what the report could not show. ``commands``: what makes the run and its evaluations
    again."""

    name: str
    folder: str
    method: str
    state: State
    data: str
    model: str
    threat: str
    training_seed: int | None
    evaluations: Sequence[EvaluationRecord] = ()
    curves: Sequence[Curve] = ()
    epochs: Sequence[int] = ()
    accuracy: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    notices: Mapping[int, Sequence[str]] = field(default_factory=dict)
    selected_epoch: int | None = None
    overfitting: Overfitting | None = None
    weights: Sequence[TermWeights] = ()
    overlap: Sequence[OverlapRecord] = ()
    masking: Panel | None = None
    gallery: GalleryRecord | None = None
    cost: Cost | None = None
    config: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    problems: Sequence[str] = ()


class Pair(NamedTuple):
    """Two runs on the same images, ``first`` minus ``second``, under the contrast's attack."""

    first: str
    second: str
    contrast: Contrast


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """Runs that may be compared: same images, threat and suite. ``runs``: names, best worst case
    first. ``pairs``: every two, of many runs the best against each, under the worst case and every
    attack. ``sentences``: what may be concluded, in words."""

    key: str
    title: str
    runs: Sequence[str]
    pairs: Sequence[Pair]
    sentences: Sequence[str]
    test: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportRecord:
    """A whole report, written by ``command``. ``summary``: its findings in words, the first the
    most important. ``problems``: folders that could not be shown, one sentence each. ``written``:
    when, ISO 8601. ``version``: of lrat."""

    title: str
    command: str
    written: str
    version: str
    summary: Sequence[str]
    groups: Sequence[GroupRecord]
    runs: Sequence[RunRecord]
    problems: Sequence[str] = ()
