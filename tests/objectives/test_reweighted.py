"""How Reweighted runs: forwards, noise, modes, statistics, zero weights, and what it refuses."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from builders import random_images, seeded
from lrat.attacks import APGD, CW, PGD, SAA, Variant
from lrat.errors import ModelError, RegionViolationError, SettingError
from lrat.losses import cross_entropy
from lrat.methods import Simulated
from lrat.objectives import Objective, Reweighted, Term
from lrat.threat import Linf
from lrat.weighting import Evidence, GeometryTanh, MarginPower
from recipes import NAMES, recipes
from steps import as_images, attack_and_score, batch_of, linear, step_of

THREAT = Linf(epsilon=0.2)
SIMULATED = Simulated(threat=THREAT, steps=2, saa_steps=3)
METHODS = recipes(SIMULATED)
PGD_2 = PGD(threat=THREAT, steps=2, step_size=0.05)


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))
    )


def model() -> nn.Module:
    return seeded(3, network)


BATCH = batch_of(
    random_images(6, 1, 6),
    torch.tensor([0, 1, 2, 3, 4, 0]),
)


@contextmanager
def counted(module: nn.Module) -> Iterator[list[bool]]:
    """One entry per forward: whether it ran in train mode."""
    forwards: list[bool] = []
    handle = module.register_forward_pre_hook(lambda part, _: forwards.append(part.training))
    yield forwards
    handle.remove()


@dataclass(frozen=True, kw_only=True)
class Recording:
    """An attack that needs clean logits, keeps what it was given and perturbs nothing."""

    seen: list[Tensor | None] = field(default_factory=list)
    needs_clean: bool = True
    provides: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, **given: Any) -> Variant:
        self.seen.append(given["clean_logits"])
        return Variant(images=images)


def test_clean_logits_are_taken_once_and_in_eval_mode() -> None:
    attacks = [Recording(), Recording(), Recording(needs_clean=False)]
    terms = [Term(name=str(number), attack=attack) for number, attack in enumerate(attacks)]
    net = model()
    with counted(net) as forwards:
        Reweighted(terms=terms).attack(net, BATCH, step_of(BATCH))
    assert forwards == [False]
    with torch.no_grad():
        expected = net.eval()(BATCH.images)
    for attack in attacks[:2]:
        (clean,) = attack.seen
        assert clean is not None
        assert torch.equal(clean, expected)


def test_no_clean_logits_where_no_attack_needs_them() -> None:
    net = model()
    terms = [Term(name="a", attack=Recording(needs_clean=False))]
    with counted(net) as forwards:
        Reweighted(terms=terms).attack(net, BATCH, step_of(BATCH))
    assert forwards == []


def test_attack_phase_of_lrat_spends_no_more_than_its_attacks() -> None:
    """Once the clean images, SAA's start and 3 steps (its targets stacked), CW's 2 steps."""
    net = model()
    with counted(net) as forwards:
        METHODS["lrat-saa+cw"].attack(net, BATCH, step_of(BATCH))
    assert forwards == [False] * (1 + 4 + 2)


@pytest.mark.parametrize("name", ["gd+cw", "saa+cw+gd"])
def test_attacks_that_step_alike_share_batches(name: str) -> None:
    """CW's and PGD's two steps, on their images together; the same variants as by themselves."""
    shared = METHODS[name].at(0.5)
    apart = replace(shared, share_rows=0)
    net, step = model(), step_of(BATCH)
    with counted(net) as few:
        variants = shared.attack(net, BATCH, step)
    with counted(net) as many:
        expected = apart.attack(net, BATCH, step)
    assert len(many) - len(few) == 2
    assert list(variants) == list(expected) == [term.name for term in shared.terms]
    for term, variant in expected.items():
        torch.testing.assert_close(variants[term].images, variant.images)
        assert variants[term].max_steps == variant.max_steps
        if variant.steps_survived is not None:
            assert torch.equal(variants[term].steps_survived, variant.steps_survived)


@pytest.mark.parametrize(
    ("size", "share_rows", "expected"), [(6, None, 1), (500, None, 2), (500, 12, 1), (6, 11, 2)]
)
def test_batches_are_shared_where_that_pays_or_as_told(
    size: int, share_rows: int | None, expected: int
) -> None:
    """Six images of ``size`` pixels, two attacks: 12 rows."""
    terms = [Term(name=name, attack=replace(PGD_2, steps=1)) for name in "ab"]
    net = linear([[0.0] * size**2, [1.0] * size**2])
    batch = batch_of(torch.zeros(6, 1, size, size), BATCH.labels % 2)
    with counted(net) as forwards:
        Reweighted(terms=terms, share_rows=share_rows).attack(net, batch, step_of(batch))
    assert len(forwards) == expected


TRAINING_FORWARDS = dict.fromkeys(NAMES, 1) | {
    "lsat-saa+cw": 2,
    "lrat-saa+cw": 2,
    "gd+cw": 2,
    "gd+saa": 2,
    "saa+cw+gd": 3,
    "trades": 2,
    "pgd+fgsm": 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_one_training_forward_per_term(name: str) -> None:
    net, step = model(), step_of(BATCH)
    variants = METHODS[name].attack(net, BATCH, step)
    with counted(net) as forwards:
        METHODS[name].loss(net, BATCH, variants, step)
    assert forwards == [True] * TRAINING_FORWARDS[name]


def test_natural_attacks_nothing() -> None:
    net, step = model(), step_of(BATCH)
    with counted(net) as forwards:
        assert METHODS["natural"].attack(net, BATCH, step) == {}
    assert forwards == []
    output = METHODS["natural"].loss(net.eval(), BATCH, {}, step)
    mean = cross_entropy(net(BATCH.images), BATCH.labels).mean()
    torch.testing.assert_close(output.total / output.normalizer, mean)


def test_a_clean_anchor_costs_one_forward_only_with_a_floor() -> None:
    for floor, expected in ((0.0, 1), (0.1, 2)):
        net, step = model(), step_of(BATCH)
        objective = Reweighted(
            terms=[Term(name="a", attack=PGD_2)], min_weight=floor, anchor="clean"
        )
        variants = objective.attack(net, BATCH, step)
        with counted(net) as forwards:
            objective.loss(net, BATCH, variants, step)
        assert len(forwards) == expected


def test_each_term_is_a_batch_of_its_own_for_batch_normalization() -> None:
    """Running means move once per term, towards that term's mean, in the order of the terms."""
    net, step = model(), step_of(BATCH)
    convolution, norm = net[0], net[1]
    objective = METHODS["lrat-saa+cw"]
    variants = objective.attack(net, BATCH, step)
    assert norm.num_batches_tracked == 0
    objective.loss(net, BATCH, variants, step)
    expected = torch.zeros(4)
    for name in ("saa", "cw"):
        with torch.no_grad():
            mean = convolution(variants[name].images).mean(dim=(0, 2, 3))
        expected = 0.9 * expected + 0.1 * mean
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, expected)


def test_terms_with_the_same_attack_start_differently() -> None:
    start = PGD(threat=THREAT, steps=1, step_size=0.0)
    objective = Reweighted(terms=[Term(name=name, attack=start) for name in ("one", "two")])
    variants = objective.attack(model(), BATCH, step_of(BATCH))
    assert (
        not torch.isclose(variants["one"].images, variants["two"].images).all(dim=(1, 2, 3)).any()
    )


def test_modes_come_back_when_the_clean_forward_raises() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken on purpose")

    net = nn.Sequential(nn.BatchNorm2d(1).eval(), Broken())
    with pytest.raises(ModelError, match="on purpose"):
        METHODS["lsat-saa"].attack(net, BATCH, step_of(BATCH))
    assert [module.training for module in net.modules()] == [True, False, True]


SURE = [[1e4, 0.0], [0.0, 1e4]]


def sure_score(normalization: str, images: list[list[float]], names: str = "ab") -> Any:
    """Weights of exactly 0 where an image is (1, 0): the model is sure of label 0."""
    terms = [Term(name=name, attack=PGD_2, weighting=MarginPower()) for name in names]
    objective = Reweighted(terms=terms, normalization=normalization)
    net = linear(SURE)
    batch = batch_of(as_images(images), torch.tensor([0] * len(images)))
    variants = {name: Variant(images=batch.images) for name in names}
    return objective.loss(net, batch, variants, step_of(batch))


@pytest.mark.parametrize("normalization", ["batch", "instance"])
def test_all_weights_zero_falls_back_to_uniform(normalization: str) -> None:
    output = sure_score(normalization, [[1.0, 0.0], [0.5, 0.1]])
    assert output.per_example["weight/a"].tolist() == [0.0, 0.0]
    assert output.fallback == 1
    assert output.normalizer > 0
    for name in "ab":
        torch.testing.assert_close(output.per_example[f"share/{name}"], torch.full((2,), 0.5))
    assert torch.isfinite(output.total)


def test_one_zero_row_keeps_zero_under_batch_normalization() -> None:
    output = sure_score("batch", [[1.0, 0.0], [0.5, 0.5]])
    assert output.fallback == 0
    torch.testing.assert_close(output.per_example["share/a"], torch.tensor([0.0, 1.0]))


def test_one_zero_row_falls_back_alone_under_instance_normalization() -> None:
    output = sure_score("instance", [[1.0, 0.0], [0.5, 0.5]])
    assert output.fallback == 1
    torch.testing.assert_close(output.per_example["share/a"], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(output.total, torch.tensor(math.log(2)))


def test_all_weights_zero_as_printed_is_a_loss_of_zero() -> None:
    output = sure_score("none", [[1.0, 0.0], [1.0, 0.0]])
    assert output.fallback == 0
    assert output.total == 0
    assert output.normalizer == 2


def test_another_process_with_weights_prevents_the_fallback() -> None:
    terms = [Term(name="a", attack=PGD_2, weighting=MarginPower())]
    batch = batch_of(as_images([[1.0, 0.0]]), torch.tensor([0]))
    alone = step_of(batch)
    step = type(alone)(
        epoch=0, progress=0.0, noise=alone.noise, mean_across_processes=lambda mean: mean + 1
    )
    variants = {"a": Variant(images=batch.images)}
    output = Reweighted(terms=terms).loss(linear(SURE), batch, variants, step)
    assert output.fallback == 0
    assert output.normalizer == 0
    assert output.total == 0


def fixed(weights: list[float]) -> Any:
    """A weighting that returns these numbers."""

    class Fixed:
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, evidence: Evidence) -> Tensor:
            return torch.tensor(weights)

    return Fixed()


@pytest.mark.parametrize("normalization", ["batch", "instance", "none"])
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("bad", [-0.1, -1.0, math.nan, math.inf, -math.inf])
def test_a_weight_that_is_none_makes_no_number(
    normalization: str, floor: float, bad: float
) -> None:
    """Also -1, which cancels against the 1 beside it and would look like no weight at all."""
    terms = [Term(name="mine", attack=PGD_2, weighting=fixed([bad, 1.0]))]
    objective = Reweighted(terms=terms, normalization=normalization, min_weight=floor)
    batch = batch_of(as_images([[0.9, 0.1], [0.5, 0.1]]), torch.tensor([0, 0]))
    output = objective.loss(
        linear([[1.0, 0.0], [0.0, 1.0]]),
        batch,
        {"mine": Variant(images=batch.images)},
        step_of(batch),
    )
    assert not torch.isfinite(output.total / output.normalizer)
    assert output.fallback == 0
    torch.testing.assert_close(
        output.per_example["weight/mine"], torch.tensor([bad, 1.0]), equal_nan=True
    )


def test_an_earlier_batch_of_the_step_with_weight_prevents_the_fallback() -> None:
    terms = [Term(name="a", attack=PGD_2, weighting=MarginPower())]
    batch = batch_of(as_images([[1.0, 0.0]]), torch.tensor([0]))
    variants = {"a": Variant(images=batch.images)}
    for weighed, expected in ((True, 0), (False, 1)):
        step = replace(step_of(batch), weighed=torch.tensor(weighed))
        output = Reweighted(terms=terms).loss(linear(SURE), batch, variants, step)
        assert output.fallback == output.stand_in == expected
        assert output.normalizer == expected


def test_a_weighting_of_ones_own_gets_no_gradient() -> None:
    """Also one with parameters: weights are constants of Eq. 7."""
    strength = torch.ones((), requires_grad=True)

    class Learned:
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, evidence: Evidence) -> Tensor:
            assert not evidence.logits.requires_grad
            return strength * evidence.logits.exp().sum(1)

    objective = Reweighted(terms=[Term(name="a", attack=PGD_2, weighting=Learned())])
    output = attack_and_score(objective, model(), BATCH)
    assert not output.normalizer.requires_grad
    assert torch.autograd.grad(output.total, strength, allow_unused=True) == (None,)


def test_plain_callables_are_attacks() -> None:
    term = Term(name="dark", attack=lambda net, images, labels: images * 0)
    variants = Reweighted(terms=[term]).attack(model(), BATCH, step_of(BATCH))
    assert variants["dark"].images.abs().max() == 0


@pytest.mark.parametrize(
    "attack",
    [
        SAA(threat=THREAT),
        APGD(threat=THREAT, steps=5),
        lambda net, images, labels: images,
    ],
    ids=["saa", "apgd", "callable"],
)
def test_steps_survived_are_required_when_made(attack: Any) -> None:
    with pytest.raises(SettingError, match=r"^Term 'saa': GeometryTanh.* needs steps_survived.*$"):
        Term(name="saa", attack=attack, weighting=GeometryTanh())


@pytest.mark.parametrize("attack", [PGD_2, CW(threat=THREAT, steps=2, step_size=0.1)])
def test_pgd_and_cw_count_steps(attack: PGD) -> None:
    assert Term(name="a", attack=attack, weighting=GeometryTanh()).attack is attack


@pytest.mark.parametrize("name", ["", "clean", "anchor"])
def test_refuses_term_names(name: str) -> None:
    with pytest.raises(SettingError, match="give a name"):
        Term(name=name, attack=PGD_2)


A = Term(name="a", attack=PGD_2)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"terms": [A, A]}, "names must differ"),
    ({"terms": [A], "min_weight": -0.1}, "must be a finite number >= 0"),
    ({"terms": [A], "min_weight": math.nan}, "must be a finite number >= 0"),
    ({"terms": [A], "min_weight": math.inf}, "must be a finite number >= 0"),
    ({"terms": [A], "anchor": "b"}, r"choose one of \['a', 'clean'\]"),
    ({"terms": [A], "anchor": PGD_2}, "set min_weight above 0"),
    ({"terms": [], "min_weight": 1.0, "anchor": PGD_2}, "natural training needs"),
    ({"terms": [A], "share_rows": -1}, "share_rows=-1.*: must be a whole number >= 0"),
    ({"terms": []}, "natural training needs"),
    ({"terms": [], "min_weight": 1.0}, "natural training needs"),
    ({"terms": [], "anchor": "clean"}, "natural training needs"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        Reweighted(**settings)
    assert "\n" not in str(caught.value)


def test_is_an_objective() -> None:
    assert isinstance(Reweighted(terms=[A]), Objective)


def test_a_weighting_of_the_wrong_shape_is_named() -> None:
    class Column:
        needs: ClassVar[frozenset[str]] = frozenset()

        def __call__(self, evidence: Evidence) -> Tensor:
            return evidence.logits[:, :1]

    objective = Reweighted(terms=[Term(name="mine", attack=PGD_2, weighting=Column())])
    with pytest.raises(SettingError, match=r"'mine'.*returned shape \(\d+, 1\)"):
        attack_and_score(objective, model(), BATCH)


def test_training_on_images_outside_the_box_is_refused() -> None:
    def leaving(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return images + 5

    objective = Reweighted(terms=[Term(name="mine", attack=leaving)])
    with pytest.raises(RegionViolationError, match="leaving left Linf"):
        attack_and_score(objective, model(), BATCH)
