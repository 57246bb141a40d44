"""The stable names, used exactly as in the documentation."""

import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from experiments.commands import python
from lrat import losses
from lrat.attacks import APGD, CW, PGD, SAA, Square
from lrat.losses import cross_entropy
from lrat.methods import Simulated
from lrat.models import SmallCNN
from lrat.objectives import Reweighted, Term, phases
from lrat.threat import L2, Linf
from lrat.weighting import Evidence, GeometryTanh, MarginPower, Uniform
from trained import digits

BALL = Linf(epsilon=8 / 255)


def test_what_lrat_exports() -> None:
    assert set(lrat.__all__) >= {
        "__version__",
        "EvaluationResult",
        "FitResult",
        "LratError",
        "accelerate",
        "attacks",
        "check_masking",
        "compare",
        "data",
        "evaluate",
        "evaluation",
        "fit",
        "losses",
        "methods",
        "models",
        "objectives",
        "report",
        "threat",
        "weighting",
    }
    for name in lrat.__all__:
        assert getattr(lrat, name) is not None
    assert dir(lrat) == sorted(lrat.__all__)
    assert not hasattr(lrat, "no_such_name")


def test_threats() -> None:
    assert Linf(epsilon=8 / 255).epsilon == 8 / 255
    assert L2(epsilon=0.5).epsilon == 0.5


def test_attacks_as_written() -> None:
    pgd = PGD(threat=BALL, steps=10, step_size=2 / 255, loss=cross_entropy, start="uniform")
    assert pgd == PGD(threat=BALL, steps=10, step_size=2 / 255)
    for start in ("gaussian", "none"):
        PGD(threat=BALL, steps=10, step_size=2 / 255, loss=cross_entropy, start=start)
    assert CW(threat=BALL, steps=10, step_size=2 / 255).loss is losses.cw
    apgd = APGD(
        threat=BALL,
        steps=100,
        loss=losses.cross_entropy,
        targets=None,
        restarts=1,
        start="surface",
    )
    assert apgd == APGD(threat=BALL)
    assert SAA(threat=BALL, steps=20, targets=3) == SAA(threat=BALL)
    square = Square(
        threat=BALL, queries=5000, p_init=0.8, restarts=1, loss=losses.cw, retire_every=None
    )
    assert square == Square(threat=BALL)


def test_losses_per_example() -> None:
    logits, labels = (
        torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 1.0, 0.5]]),
        torch.tensor([0, 2]),
    )
    for loss in (losses.cross_entropy, losses.cw, losses.dlr):
        assert loss(logits, labels).shape == (2,)
    assert losses.targeted_dlr(logits, labels, torch.tensor([1, 1])).shape == (2,)


def test_weightings() -> None:
    evidence = Evidence(
        logits=torch.tensor([[1.0, 0.0]]),
        labels=torch.tensor([0]),
        steps_survived=torch.tensor([3]),
        max_steps=10,
    )
    for weighting in (Uniform(), MarginPower(alpha=2, beta=0.5), GeometryTanh(lambda_=-1)):
        assert weighting(evidence).shape == (1,)


def test_objectives_as_written() -> None:
    pgd = PGD(threat=BALL, steps=10, step_size=2 / 255)
    saa, cw = SAA(threat=BALL), CW(threat=BALL, steps=10, step_size=2 / 255)
    margin = MarginPower(alpha=2, beta=0.5)
    sat = Reweighted(terms=[Term(name="pgd", attack=pgd)])
    gairat = phases(
        {
            0.0: sat,
            0.3: Reweighted(
                terms=[Term(name="pgd", attack=pgd, weighting=GeometryTanh(lambda_=-1))]
            ),
        }
    )
    combined = Reweighted(
        terms=[
            Term(name="saa", attack=saa, weighting=margin),
            Term(name="cw", attack=cw, weighting=margin),
        ],
        min_weight=0.1,
    )
    simulated = Simulated(threat=BALL, step_size=2 / 255)
    assert sat == lrat.methods.sat(simulated)
    assert gairat == lrat.methods.gairat(simulated)
    assert combined == lrat.methods.lrat(simulated)
    assert lrat.methods.lsat(simulated, "pgd") == sat
    for normalization in ("batch", "instance", "none"):
        Reweighted(terms=sat.terms, min_weight=0.0, normalization=normalization, anchor=None)


def test_fit_and_evaluate_as_written() -> None:
    images, labels = (part[:60] for part in digits())
    model = seeded(0, lambda: SmallCNN(size=8, width=4))
    lrat.fit(model, (images, labels), method="lrat-cw", threat=Linf(epsilon=8 / 255), epochs=1)
    result = lrat.evaluate(model, (images, labels), threat=Linf(epsilon=8 / 255), suite="quick")
    for share in (result.accuracy["pgd-20"], result.worst_case):
        assert share.low <= share.value <= share.high
    assert len(result.outcomes) == 180
    assert "Linf(epsilon=8/255)" in str(result)


def test_any_callable_is_an_attack_and_a_loss() -> None:
    def cross_entropy_by_hand(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.logsumexp(1) - logits.gather(1, labels[:, None]).squeeze(1)

    def invert(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return 1 - images

    images, labels = (part[:4] for part in digits())
    model = seeded(0, lambda: SmallCNN(size=8, width=4))
    ours, theirs = (
        PGD(threat=BALL, steps=1, step_size=0.01, loss=loss)(model, images, labels).images
        for loss in (cross_entropy, cross_entropy_by_hand)
    )
    torch.testing.assert_close(ours, theirs)
    variant = Term(name="inverted", attack=invert).attack(model, images, labels)
    assert torch.equal(variant.images, 1 - images)


GLOBAL_STATE = """
import logging, pkgutil, random, signal, sys, warnings
import numpy, torch

def state():
    return {
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.benchmark,
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": str(numpy.random.get_state()),
        "python": random.getstate(),
        "warnings": list(warnings.filters),
        "handlers": list(logging.root.handlers),
        "level": logging.root.level,
        "logger": logging.getLogger("lrat").level,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "excepthook": sys.excepthook,
    }

# What third parties do when they are imported is theirs.
import pydantic, rich.console, typer, yaml
before = state()
import lrat
for module in pkgutil.walk_packages(lrat.__path__, "lrat."):
    if module.name != "lrat.__main__":
        __import__(module.name)
for name in lrat.__all__:
    getattr(lrat, name)
after = state()
print([name for name in before if before[name] != after[name]])
"""


def test_importing_lrat_changes_nothing_global() -> None:
    assert python(GLOBAL_STATE) == "[]\n"


def test_importing_lrat_alone_loads_nothing_heavy() -> None:
    loaded = python(
        "import sys, lrat; print(sorted({'torch', 'numpy', 'typer'} & set(sys.modules)))"
    )
    assert loaded == "[]\n"
