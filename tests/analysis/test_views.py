"""The three views of single images: against their equations, and for any split into batches."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrat.acceleration import accelerate
from lrat.analysis.views import Columns, joined, last_layer, look_at, looks, names_of
from lrat.attacks import CW, PGD, SAA, Variant
from lrat.errors import NonFiniteError, RegionViolationError, SettingError
from lrat.evaluation.forward import classify
from lrat.losses import logit_margin, probability_margin
from lrat.randomness import Keyed, keys
from lrat.types import Batch
from trained import THREAT, digits, trained

PACE = THREAT.epsilon / 10
PGD_10 = PGD(threat=THREAT, steps=10, step_size=PACE)
CW_10 = CW(threat=THREAT, steps=10, step_size=PACE)


def some(first: int = 1400, count: int = 60) -> Batch:
    images, labels = (part[first : first + count] for part in digits())
    return Batch(images=images, labels=labels, index=torch.arange(first, first + count))


def seen(
    batch: Batch,
    view: nn.Module | None = None,
    *,
    model: nn.Module | None = None,
    pgd: PGD = PGD_10,
    saa: bool = False,
    again: bool = False,
) -> Columns:
    model = trained() if model is None else model
    return look_at(
        batch,
        looks(pgd, CW_10, saa=SAA(threat=THREAT, steps=5) if saa else None, again=again),
        view=model if view is None else view,
        answers=partial(classify, model),
        threat=THREAT,
        seed=0,
    ).columns


def test_the_views_are_those_of_the_equations() -> None:
    batch, model = some(), trained()
    columns = seen(batch)
    noise = Keyed(keys(0, batch.index)).child("view")
    pgd = PGD_10(model, batch.images, batch.labels, noise=noise)
    cw = CW_10(model, batch.images, batch.labels, noise=noise)
    with torch.no_grad():
        clean, after_pgd, after_cw = (
            model(images) for images in (batch.images, pgd.images, cw.images)
        )
    assert pgd.steps_survived is not None
    np.testing.assert_array_equal(columns["v_gd"], pgd.steps_survived.numpy())
    p_y = after_pgd.softmax(1).gather(1, batch.labels[:, None]).squeeze(1)
    np.testing.assert_allclose(columns["v_pgd"], p_y.numpy(), rtol=1e-6)
    margin = logit_margin(after_cw, batch.labels).numpy()
    np.testing.assert_allclose(columns["v_cw"], margin, rtol=1e-6)
    np.testing.assert_array_equal(columns["v_cw"], columns["margin_cw"])
    t = probability_margin(after_pgd, batch.labels).numpy()
    np.testing.assert_allclose(columns["t_pgd"], t, rtol=1e-6)
    right = (clean.argmax(1) == batch.labels).numpy()
    np.testing.assert_array_equal(columns["correct"], right)
    np.testing.assert_array_equal(columns["margin_clean"] > 0, right)


def test_views_tell_images_apart() -> None:
    columns = seen(some())
    assert 0 <= columns["v_gd"].min() < columns["v_gd"].max() <= 10
    assert columns["v_pgd"].std() > 0.05
    fooled = columns["margin_pgd"] < 0
    assert columns["v_gd"][fooled].mean() < columns["v_gd"][~fooled].mean()


def test_views_do_not_depend_on_the_batches() -> None:
    whole = seen(some(count=24))
    parts = joined([seen(some(1410, 14)), seen(some(1400, 10))])
    np.testing.assert_array_equal(parts["index"], whole["index"])
    np.testing.assert_array_equal(parts["v_gd"], whole["v_gd"])
    for name in ("v_pgd", "v_cw", "t_clean"):
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-5)


def test_the_accelerated_view_gives_the_same_views() -> None:
    batch = some()
    plain, fast = seen(batch), seen(batch, accelerate(trained(), batch.images))
    assert (plain["v_gd"] == fast["v_gd"]).mean() > 0.95
    np.testing.assert_allclose(plain["v_pgd"], fast["v_pgd"], atol=0.02)


def test_other_starts_are_other_and_the_attacks_the_same() -> None:
    columns = seen(some(), again=True)
    assert not np.array_equal(columns["v_pgd"], columns["v_pgd_again"])
    assert np.corrcoef(columns["v_cw"], columns["v_cw_again"])[0, 1] > 0.8


@pytest.mark.parametrize("options", [{}, {"again": True}, {"saa": True}])
def test_the_columns_are_named_beforehand(options: dict[str, bool]) -> None:
    saa = SAA(threat=THREAT, steps=5) if "saa" in options else None
    named = names_of(looks(PGD_10, CW_10, saa=saa, again="again" in options))
    assert set(named) == set(seen(some(count=8), **options))


def test_an_attack_that_counts_no_steps_is_refused() -> None:
    with pytest.raises(SettingError, match="does not count the steps"):
        looks(SAA(threat=THREAT, steps=5), CW_10)


def test_a_variant_outside_the_region_is_refused() -> None:
    class Escaped(PGD):
        def variant(self, run: object, images: Tensor) -> Variant:
            return Variant(images=1 - images, steps_survived=torch.zeros(len(images)).long())

    attack = Escaped(threat=THREAT, steps=1, step_size=PACE)
    with pytest.raises(RegionViolationError, match="Escaped left"):
        seen(some(count=4), pgd=attack)


def test_logits_that_are_not_finite_are_refused() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10] * torch.nan

    with pytest.raises(NonFiniteError, match="image 1400 under natural"):
        seen(some(count=4), model=Broken())


def test_the_last_layer_of_clean_images() -> None:
    batches = [some(1400, 10), some(1410, 5)]
    outputs, index = last_layer(batches, partial(classify, trained()))
    assert index.tolist() == list(range(1400, 1415))
    with torch.no_grad():
        expected = trained()(some(1400, 15).images)
    np.testing.assert_allclose(outputs, expected.numpy(), atol=1e-5)
