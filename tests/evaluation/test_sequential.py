"""Sequential noise: the whole of AutoAttack gives the reference's verdicts image by image."""

import copy
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from evaluation.parts import batches_of
from lrat.attacks import APGD, FAB, Attack, Cascade, Square
from lrat.errors import RunFolderError
from lrat.evaluation import EvaluationResult, custom, evaluate_suite
from lrat.losses import targeted_dlr
from lrat.threat import Linf
from trained import digits, trained

CHUNK, SEED = 64, 7
STEPS, QUERIES = 12, 150
THREAT = Linf(epsilon=0.12)
MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")


def ours() -> dict[str, Attack]:
    """AutoAttack's members, shorter, with the retirement that evaluations use."""
    short: dict[str, Any] = {"threat": THREAT, "steps": STEPS, "retire_every": 5}
    return {
        "apgd-ce": APGD(**short),
        "apgd-t": APGD(loss=targeted_dlr, targets=9, **short),
        "fab-t": FAB(targets=9, **short),
        "square": Square(threat=THREAT, queries=QUERIES, retire_every=50),
    }


def problem() -> tuple[Tensor, Tensor]:
    """150 held-out digits, some of them wrong when clean: the last chunk is not full."""
    images, labels = digits()
    return images[1400:1550], labels[1400:1550]


@cache
def theirs(which: str, *attacks: str) -> Tensor:
    """[B]: what the reference fools with these attacks, one on what the one before left."""
    images, labels = problem()
    # It writes gradients to parameters, and draws from the global random state.
    model = copy.deepcopy(trained(which))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = AutoAttack(
            model, attacks=list(attacks), eps=THREAT.epsilon, seed=SEED, version="custom"
        )
        # Auto-PGD's checkpoints follow from its steps.
        short: dict[str, Any] = {"n_iter": STEPS, "eps": THREAT.epsilon, "norm": "Linf"}
        reference.apgd = APGDAttack(model, loss="ce", device="cpu", **short)
        reference.apgd_targeted = APGDAttack_targeted(
            model, n_target_classes=9, device="cpu", **short
        )
        reference.fab = FABAttack_PT(model, targeted=True, n_target_classes=9, **short)
        reference.square.n_queries = QUERIES
        _, predicted = reference.run_standard_evaluation(images, labels, batch_size=CHUNK)
    return predicted != labels


def evaluated(which: str, attacks: dict[str, Any], **settings: Any) -> EvaluationResult:
    images, labels = problem()
    suite = custom(THREAT, attacks)
    settings = {"noise": "sequential", "chunk": CHUNK, "seed": SEED} | settings
    # Batches of another size: all images are one block whatever they come in.
    return evaluate_suite(trained(which), batches_of(images, labels, 40), suite, **settings)


def fooled(result: EvaluationResult, name: str) -> Tensor:
    return torch.from_numpy(result.outcomes.under(name).at(result.index).fooled)


@pytest.mark.parametrize("which", ["convolutional", "dense"])
def test_the_cascade_gives_the_reference_s_verdicts_after_each_stage(which: str) -> None:
    result = evaluated(which, {"autoattack": Cascade(members=ours())})
    for count in range(1, len(MEMBERS) + 1):
        expected = theirs(which, *MEMBERS[:count])
        assert torch.equal(fooled(result, f"autoattack.{MEMBERS[count - 1]}"), expected)
    assert torch.equal(fooled(result, "autoattack"), expected)
    assert 0.1 < expected.float().mean() < 0.9


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("which", ["convolutional", "dense"])
def test_each_member_alone_gives_the_reference_s_verdicts(which: str, name: str) -> None:
    result = evaluated(which, {name: ours()[name]})
    assert torch.equal(fooled(result, name), theirs(which, name))
    assert fooled(result, name).sum() > fooled(result, "natural").sum()


def test_what_is_drawn_depends_on_seed_and_chunk() -> None:
    attack = {"apgd-ce": APGD(threat=THREAT, steps=1)}

    def margins(**settings: Any) -> Tensor:
        return torch.from_numpy(
            evaluated("dense", attack, **settings).outcomes.under("apgd-ce").margin
        )

    first = margins()
    assert torch.equal(margins(), first)
    assert not torch.equal(margins(seed=SEED + 1), first)
    assert not torch.equal(margins(chunk=50), first)


def test_a_sequential_evaluation_continues_as_if_it_had_not_stopped(tmp_path: Any) -> None:
    members = {name: ours()[name] for name in ("apgd-ce", "square")}
    attacks = {"both": Cascade(members=members)}
    whole = evaluated("dense", attacks)
    reports = 0

    def stop(progress: object) -> None:
        nonlocal reports
        reports += 1
        if reports == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated("dense", attacks, folder=tmp_path, on_progress=stop)
    continued = evaluated("dense", attacks, folder=tmp_path)
    assert reports > 0
    assert str(continued) == str(whole)
    for name in ("both.apgd-ce", "both.square"):
        assert torch.equal(fooled(continued, name), fooled(whole, name))


def test_other_chunks_are_another_evaluation(tmp_path: Any) -> None:
    attack = {"apgd-ce": APGD(threat=THREAT, steps=1)}
    evaluated("dense", attack, folder=tmp_path)
    with pytest.raises(RunFolderError, match=r"noise: sequential, 64 at once there, .* 50 at once"):
        evaluated("dense", attack, folder=tmp_path, chunk=50)
