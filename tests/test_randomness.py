"""Noise: fixed numbers, right distributions, independent streams, and nothing of the batch."""

import itertools
import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from builders import keyed
from lrat.errors import SettingError
from lrat.randomness import Keyed, Noise, Sequential, as_noise, keys

CPU = torch.device("cpu")
GOLDEN_KEYS = {
    0: [-2152535657050944081, -4616330145664149646, 4689417271487893854],
    7: [-9196896828782729371, 8464202875668374969, 2302171349755552131],
}
GOLDEN_UNIFORM = [[4757000, 2368676, 7685916], [12519765, 15723037, 1983136]]
GOLDEN_INTEGERS = [[284, 430, 829], [182, 136, 186]]
GOLDEN_CHILD = [[235, 15, 283], [913, 925, 977]]
GOLDEN_NORMAL = [
    [1.5700833797454834, 1.1239017248153687, 0.8298547267913818],
    [-0.7465307116508484, -0.33904343843460083, -0.525802731513977],
]
DRAWS: dict[str, Callable[[Noise, tuple[int, ...], str], Tensor]] = {
    "uniform": lambda noise, shape, stream: noise.uniform(shape, stream),
    "normal": lambda noise, shape, stream: noise.normal(shape, stream),
    "integers": lambda noise, shape, stream: noise.integers(1000, shape, stream),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def test_the_numbers_never_change() -> None:
    """Golden values: a run must be repeatable with any later version and on any device."""
    assert keys(0, torch.arange(3)).tolist() == GOLDEN_KEYS[0]
    assert keys(7, torch.arange(3)).tolist() == GOLDEN_KEYS[7]
    noise = Keyed(keys(7, torch.tensor([11, 5])))
    scaled = noise.uniform((2, 3), "start").double() * 2**24
    assert scaled.long().tolist() == GOLDEN_UNIFORM
    assert noise.integers(1000, (2, 3), "start").tolist() == GOLDEN_INTEGERS
    assert noise.child("pgd").child(1).integers(1000, (2, 3), "start").tolist() == GOLDEN_CHILD
    normal = torch.tensor(GOLDEN_NORMAL)
    torch.testing.assert_close(noise.normal((2, 3), "start"), normal, rtol=1e-6, atol=1e-7)


def test_keys_are_those_of_splitmix64() -> None:
    """The same numbers from Python's integers, modulo 2**64."""
    full = (1 << 64) - 1

    def mix(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & full
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & full
        return value ^ (value >> 31)

    for seed, index in itertools.product([0, 1, 2**31, 123456789], [0, 1, 49_999]):
        first = mix((index + seed * 0xD1342543DE82EF95) & full)
        expected = mix((first + 0x9E3779B97F4A7C15) & full)
        assert keys(seed, torch.tensor([index])).item() & full == expected


def test_uniform_is_uniform() -> None:
    drawn = keyed(1000).uniform((1000, 200), "start")
    assert drawn.dtype is torch.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    count = drawn.numel()
    assert abs(drawn.mean().item() - 0.5) < 4 / math.sqrt(12 * count)
    assert abs(drawn.var().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / count)
    for values in (drawn.flatten(), drawn[:, 0], drawn[0]):
        observed = torch.histc(values, 50, 0, 1).numpy()
        assert scipy.stats.chisquare(observed).pvalue > 1e-4


def test_integers_fill_their_range_evenly() -> None:
    drawn = keyed(500).integers(7, (500, 40), "crop")
    assert drawn.dtype is torch.int64
    assert scipy.stats.chisquare(drawn.flatten().bincount().numpy()).pvalue > 1e-4
    assert set(drawn.flatten().tolist()) == set(range(7))
    assert torch.equal(keyed(5).integers(1, (5, 2), "crop"), torch.zeros(5, 2, dtype=torch.long))


def test_normals_are_normal() -> None:
    drawn = keyed(500).normal((500, 100), "start")
    assert drawn.dtype is torch.float32
    assert torch.isfinite(drawn).all()
    flat = drawn.flatten().double()
    assert abs(flat.mean()) < 0.02
    assert abs(flat.var() - 1) < 0.03
    assert abs((flat**3).mean()) < 0.06
    assert abs((flat**4).mean() - 3) < 0.2
    assert scipy.stats.kstest(flat.numpy(), "norm").pvalue > 1e-4


def test_different_streams_children_seeds_images_and_positions_are_independent() -> None:
    noise = keyed(4000)
    shape = (4000, 5)
    samples = {
        "stream": noise.uniform(shape, "start"),
        "other stream": noise.uniform(shape, "radius"),
        "child": noise.child("a").uniform(shape, "start"),
        "other child": noise.child("b").uniform(shape, "start"),
        "numbered child": noise.child(1).uniform(shape, "start"),
        "child named by the digit": noise.child("1").uniform(shape, "start"),
        "grandchild": noise.child("a").child("b").uniform(shape, "start"),
        "grandchild, other order": noise.child("b").child("a").uniform(shape, "start"),
        "child named as the stream": noise.child("start").uniform(shape, "start"),
        "seed": keyed(4000, seed=1).uniform(shape, "start"),
        "negative seed": keyed(4000, seed=-1).uniform(shape, "start"),
        "next image": noise.uniform(shape, "start").roll(1, 0),
        "next position": noise.uniform(shape, "start").roll(1, 1),
    }
    correlations = torch.stack([part.flatten() for part in samples.values()]).corrcoef()
    off_diagonal = correlations - torch.eye(len(samples))
    assert off_diagonal.abs().max() < 4.5 / math.sqrt(20_000)


@each_draw
def test_the_same_draw_twice_is_the_same(draw: Callable[..., Tensor]) -> None:
    noise = keyed(6)
    assert torch.equal(draw(noise, (6, 2, 3), "a"), draw(noise, (6, 2, 3), "a"))


@each_draw
@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(8)), cut=st.integers(0, 8))
def test_nothing_depends_on_the_batch(
    draw: Callable[..., Tensor], order: list[int], cut: int
) -> None:
    """Permuted images get permuted noise, and any split of a batch gets the same noise."""
    noise, rows = keyed(8, seed=3), torch.tensor(order)
    whole = draw(noise, (8, 2, 2), "start")
    assert torch.equal(draw(noise.select(rows), (8, 2, 2), "start"), whole[rows])
    parts = [part for part in (rows[:cut], rows[cut:]) if len(part)]
    split = [draw(Keyed(keys(3, part)), (len(part), 2, 2), "start") for part in parts]
    assert torch.equal(torch.cat(split), whole[rows])
    mask = rows < cut
    picked = draw(noise.select(mask), (int(mask.sum()), 2, 2), "start")
    assert torch.equal(picked, whole[mask])


@each_draw
def test_a_longer_draw_begins_with_the_shorter(draw: Callable[..., Tensor]) -> None:
    noise = keyed(4)
    assert torch.equal(draw(noise, (4, 10), "a")[:, :6], draw(noise, (4, 6), "a"))
    assert draw(noise, (4,), "a").shape == (4,)


def test_no_two_of_many_keys_are_equal() -> None:
    several = torch.cat([keys(seed, torch.arange(50_000)) for seed in range(4)])
    assert len(several.unique()) == len(several)


@each_draw
def test_a_wrong_batch_size_is_refused(draw: Callable[..., Tensor]) -> None:
    with pytest.raises(SettingError, match="holds 3 keys, but 4 rows"):
        draw(keyed(3), (4, 2), "a")


@each_draw
def test_nothing_waits_for_the_device(draw: Callable[..., Tensor]) -> None:
    """Data-dependent operations raise under fake tensors."""
    with FakeTensorMode():
        noise = Keyed(keys(1, torch.arange(4))).child("a")
        assert draw(noise, (4, 3), "start").shape == (4, 3)


def test_sequential_draws_what_torch_draws() -> None:
    noise = Sequential(torch.Generator().manual_seed(5))
    expected = torch.Generator().manual_seed(5)
    assert torch.equal(noise.uniform((3, 2), "a"), torch.rand(3, 2, generator=expected))
    assert torch.equal(noise.child("x").normal((3, 2), "a"), torch.randn(3, 2, generator=expected))
    chosen = noise.select(torch.tensor([0])).integers(9, (1, 4), "a")
    assert torch.equal(chosen, torch.randint(9, (1, 4), generator=expected))


def test_noise_says_whether_images_have_numbers_of_their_own() -> None:
    noise = keyed(3)
    for part in (noise, noise.child("a"), noise.select(torch.tensor([1]))):
        assert part.per_image
    assert not Sequential(torch.Generator()).child("a").per_image


def test_what_callers_may_pass_as_noise() -> None:
    index = torch.arange(4)
    for given_noise, seed in ((None, 0), (0, 0), (9, 9)):
        adapted = as_noise(given_noise, 4, CPU)
        assert isinstance(adapted, Keyed)
        assert torch.equal(adapted.keys, keys(seed, index))
    generator = torch.Generator().manual_seed(1)
    sequential = as_noise(generator, 4, CPU)
    assert isinstance(sequential, Sequential)
    assert sequential.generator is generator
    noise = keyed(4)
    assert as_noise(noise, 4, CPU) is noise
    moved = as_noise(noise, 4, torch.device("meta"))
    assert isinstance(moved, Keyed)
    assert moved.keys.device.type == "meta"
    assert isinstance(noise, Noise)
    assert isinstance(sequential, Noise)
