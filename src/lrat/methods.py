"""The methods by name, one expression each: those of the paper's tables, and TRADES.

Every recipe takes the attacks simulated in training (``Simulated``), so that two methods differ in
their objective alone. ``smoothed`` trains any of them on smoothed labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lrat.attacks import CW, FGSM, PGD, SAA, Attack
from lrat.checks import check_fields
from lrat.errors import UnknownNameError
from lrat.losses import kl, smoothed_cross_entropy
from lrat.objectives import Phases, Reweighted, Term, Trades, phases, with_criterion
from lrat.objectives.reweighted import Normalization
from lrat.threat import BALL, BallLike
from lrat.weighting import GeometryTanh, MarginPower, Uniform, Weighting

Method = TypeVar("Method")
_ATTACKS: Mapping[str, Callable[..., Attack]] = {"pgd": PGD, "cw": CW, "saa": SAA, "fgsm": FGSM}


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """The attacks simulated in training. ``step_size`` None is the paper's epsilon / 10.

    ``saa_keep``: see ``SAA(keep=)``; None is the exact SAA.
    The authors' earlier code steps 0.007 at epsilon 0.031: pass ``step_size``.
    """

    threat: BallLike
    steps: int = 10
    step_size: float | None = None
    saa_steps: int = 20
    saa_targets: int = 3
    saa_keep: Mapping[int, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        check_fields(self, threat=BALL)

    @property
    def pace(self) -> float:
        """The step size in the ball's norm, [0, 1] units."""
        return self.threat.epsilon / 10 if self.step_size is None else self.step_size

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of the attack of this name; nothing of others than ``make`` knows."""
        if name == "saa":
            return {"steps": self.saa_steps, "targets": self.saa_targets, "keep": self.saa_keep}
        if name in ("pgd", "cw"):
            return {"steps": self.steps, "step_size": self.pace}
        return {"start": "uniform"} if name == "fgsm" else {}

    def make(self, name: str) -> Attack:
        """The attack called ``pgd``, ``cw``, ``saa`` or ``fgsm``."""
        if name not in _ATTACKS:
            raise UnknownNameError("training attack", name, _ATTACKS)
        return _ATTACKS[name](threat=self.threat, **self.settings(name))

    def term(self, name: str, weighting: Weighting) -> Term:
        """The attack of this name with this weighting: one j of Eq. 7."""
        return Term(name=name, attack=self.make(name), weighting=weighting)


def natural(_simulated: Simulated | None = None) -> Reweighted:
    """Plain training on clean images: no attack, the floor alone."""
    return Reweighted(terms=[], min_weight=1.0, anchor="clean")


def lsat(simulated: Simulated, *attacks: str) -> Reweighted:
    """LSAT-X (Sec. 5.1): every weight is 1. Several attacks have equal weight (AVG, Tramer & Boneh
    2019); without a name the attack is SAA."""
    return Reweighted(terms=[simulated.term(name, Uniform()) for name in attacks or ("saa",)])


def sat(simulated: Simulated) -> Reweighted:
    """Standard adversarial training (Eq. 2; Madry et al. 2018): LSAT with PGD."""
    return lsat(simulated, "pgd")


def weak_mix(simulated: Simulated) -> Reweighted:
    """SAT with a weak attack's images mixed in at equal weight, which weakens it (Appendix D)."""
    return lsat(simulated, "pgd", "fgsm")


def gairat(
    simulated: Simulated, attack: str = "pgd", *, lambda_: float = -1.0, begin: float = 0.3
) -> Phases:
    """GAIRAT (Eq. 4 and 10): weights by steps survived, uniform until the fraction ``begin``.

    ``attack="cw"`` counts the steps along CW's trajectory (the paper's Figure 6).
    """
    local = LocalSettings(min_weight=0.0)
    return gd(simulated, (), attack, lambda_=lambda_, begin=begin, settings=local)


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """The parameters of Eq. 7, 12 and 15; the defaults are the paper's. ``min_weight`` is C."""

    alpha: float = 2.0
    beta: float = 0.5
    min_weight: float = 0.1
    normalization: Normalization = "batch"
    anchor: str | None = None

    def objective(self, terms: Sequence[Term]) -> Reweighted:
        """Eq. 7 over these terms, with this floor, normalisation and anchor."""
        return Reweighted(
            terms=terms,
            min_weight=self.min_weight,
            normalization=self.normalization,
            anchor=self.anchor,
        )

    def terms(self, simulated: Simulated, attacks: Sequence[str]) -> list[Term]:
        """A term per attack, weighted by the margins of that attack's variants (Eq. 12)."""
        margin = MarginPower(alpha=self.alpha, beta=self.beta)
        return [simulated.term(attack, margin) for attack in attacks]


def lrat(
    simulated: Simulated,
    attacks: Sequence[str] = ("saa", "cw"),
    *,
    settings: LocalSettings | None = None,
) -> Reweighted:
    """LRAT (Eq. 7, 12 and 15, Algorithm 1): each variant is weighted by its margin."""
    local = settings or LocalSettings()
    return local.objective(local.terms(simulated, attacks))


def gd(
    simulated: Simulated,
    attacks: Sequence[str],
    counted: str = "pgd",
    *,
    lambda_: float = -1.0,
    begin: float = 0.3,
    settings: LocalSettings | None = None,
) -> Phases:
    """Table 2's GD rows: LRAT's terms plus a variant weighted by geometric distance (Eq. 10).

    That variant's weight is 1 until the fraction ``begin`` of training.
    """
    local = settings or LocalSettings()

    def with_weighting(weighting: Weighting) -> Reweighted:
        return local.objective(
            [*local.terms(simulated, attacks), simulated.term(counted, weighting)]
        )

    return phases(
        {0.0: with_weighting(Uniform()), begin: with_weighting(GeometryTanh(lambda_=lambda_))}
    )


def trades(simulated: Simulated, *, beta: float = 6.0, authors: bool = False) -> Trades:
    """TRADES (Zhang et al. 2019) with the same steps as the other methods.

    ``authors``: as in the authors' code, the first point is not projected into ball and box, and
    clean images are forwarded twice.
    """
    ascent = PGD(
        threat=simulated.threat,
        steps=simulated.steps,
        step_size=simulated.pace,
        loss=kl,
        start="unprojected" if authors else "gaussian",
    )
    return Trades(attack_with=ascent, beta=beta, clean_twice=authors)


def smoothed(method: Method, label_smoothing: float) -> Method:
    """Any of these methods, trained on smoothed labels; the method itself for 0.

    Training descends ``losses.smoothed_cross_entropy`` (in the natural term of TRADES); the losses
    of attacks do not change. ``SettingError`` outside [0, 1).
    """
    criterion = smoothed_cross_entropy(label_smoothing)
    return with_criterion(method, criterion) if label_smoothing else method
