"""Subsets and hold-outs: stratified, fixed by the seed, disjoint, in order."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from data.data_builders import ramp
from lrat.data import ImageData, hold_out, stratified_subset
from lrat.errors import DataError, SettingError


def numbers(data: ImageData) -> list[int]:
    return data.index.tolist()


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 60),
    classes=st.integers(2, 7),
    limit=st.integers(1, 70),
    seed=st.integers(-3, 2**40),
)
def test_a_subset_is_sorted_repeatable_and_of_the_size_asked_for(
    count: int, classes: int, limit: int, seed: int
) -> None:
    data = ramp(count, classes=classes)
    subset = stratified_subset(data, limit, seed)
    assert len(subset) == min(limit, count)
    assert numbers(subset) == sorted(set(numbers(subset)))
    assert set(numbers(subset)) <= set(numbers(data))
    assert numbers(stratified_subset(data, limit, seed)) == numbers(subset)
    assert torch.equal(subset.labels, (subset.index - 100) % classes)


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_stratified_subset_is_the_one_of_scikit_learn(
    sizes: list[int], share: float, seed: int
) -> None:
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[order]
    data = replace(ramp(len(labels), classes=5), labels=labels)
    limit = len(sizes) + int(share * (len(labels) - 2 * len(sizes)))
    expected, _ = train_test_split(
        data.index.numpy(), train_size=limit, stratify=labels.numpy(), random_state=seed
    )
    assert numbers(stratified_subset(data, limit, seed)) == sorted(expected)


def test_classes_keep_their_proportion() -> None:
    data = ramp(300)
    kept = data.select(torch.cat([torch.arange(0, 300, 3), torch.arange(1, 61, 3)]))
    assert stratified_subset(kept, 30, 0).labels.bincount().tolist() == [25, 5]


def test_seeds_choose_different_images() -> None:
    data = ramp(90)
    chosen = {tuple(numbers(stratified_subset(data, 30, seed))) for seed in range(4)}
    assert len(chosen) == 4


def test_no_limit_is_everything() -> None:
    data = ramp(5)
    assert stratified_subset(data, None, 0) is data
    assert stratified_subset(data, 5, 0) is data


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(SettingError, match="limit=0"):
        stratified_subset(ramp(5), 0, 0)


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(4, 60),
    classes=st.integers(2, 7),
    fraction=st.floats(0.01, 0.85),
    seed=st.integers(0, 9),
)
def test_a_hold_out_and_the_rest_partition_the_data(
    count: int, classes: int, fraction: float, seed: int
) -> None:
    data = ramp(count, classes=classes)
    rest, held = hold_out(data, fraction, seed)
    assert held is not None
    assert len(held) == max(1, round(count * fraction))
    assert sorted(numbers(rest) + numbers(held)) == numbers(data)
    assert numbers(rest) == sorted(numbers(rest))


def test_a_hold_out_is_stratified() -> None:
    _, held = hold_out(ramp(120), 0.15, 3)
    assert held is not None
    assert held.labels.bincount().tolist() == [6, 6, 6]


def test_fraction_zero_holds_nothing_out() -> None:
    data = ramp(6)
    rest, held = hold_out(data, 0, 0)
    assert rest is data
    assert held is None


def test_fractions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="fraction=1"):
        hold_out(ramp(6), 1.0, 0)
    with pytest.raises(DataError, match="leaves none"):
        hold_out(ramp(1), 0.5, 0)
