"""Batches: permutations, resumable in the middle of an epoch, in order for evaluation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.data_builders import ramp
from lrat.data import CropAndFlip, InMemory, in_order
from lrat.errors import CheckpointError, SettingError
from lrat.types import Batch, BatchSource


def epoch(source: InMemory) -> list[list[int]]:
    return [batch.index.tolist() for batch in source]


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.index, other.index)
        for one, other in zip(left, right, strict=True)
    )


def test_it_is_a_batch_source() -> None:
    source = InMemory(ramp(5), batch_size=2)
    assert isinstance(source, BatchSource)
    assert source.size == 5


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_an_epoch_is_a_permutation_in_batches_of_the_size(
    count: int, batch_size: int, seed: int
) -> None:
    batches = epoch(InMemory(ramp(count), batch_size=batch_size, seed=seed))
    assert sorted(itertools.chain(*batches)) == list(range(100, 100 + count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


def test_epochs_and_seeds_differ_and_repeat() -> None:
    source = InMemory(ramp(40), batch_size=7, seed=3)
    first, second = epoch(source), epoch(source)
    assert first != second
    again = InMemory(ramp(40), batch_size=7, seed=3)
    assert [epoch(again), epoch(again)] == [first, second]
    assert epoch(InMemory(ramp(40), batch_size=7, seed=4)) != first


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    wide, narrow = (InMemory(ramp(40), batch_size=size, seed=3) for size in (40, 3))
    assert epoch(wide)[0] == list(itertools.chain(*epoch(narrow)))


def test_images_labels_and_numbers_stay_together() -> None:
    data = ramp(20)
    for batch in InMemory(data, batch_size=6, seed=1):
        expected = data.batch(batch.index - 100)
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


def test_without_shuffling_every_epoch_is_in_order() -> None:
    source = InMemory(ramp(5), batch_size=2, shuffle=False)
    for _ in range(2):
        assert epoch(source) == [[100, 101], [102, 103], [104]]


@settings(deadline=None, max_examples=30)
@given(done=st.integers(0, 9), batch_size=st.integers(1, 9))
def test_a_restored_source_yields_the_batches_that_were_left(done: int, batch_size: int) -> None:
    def build() -> InMemory:
        augment = CropAndFlip(padding=1)
        return InMemory(ramp(11), batch_size=batch_size, seed=5, augmentation=augment)

    source = build()
    epochs = [list(source) for _ in range(3)]
    interrupted = build()
    list(interrupted)
    done = min(done, len(epochs[1]))
    assert same(list(itertools.islice(interrupted, done)), epochs[1][:done])
    restored = build()
    restored.load_state_dict(interrupted.state_dict())
    assert same(list(restored), epochs[1][done:])
    assert same(list(restored), epochs[2])


def test_the_state_counts_the_batch_in_hand() -> None:
    source = InMemory(ramp(5), batch_size=2)
    seen = [source.state_dict() for _ in source]
    assert [state["position"] for state in seen] == [2, 4, 5]
    assert source.state_dict() == {"epoch": 1, "position": 0}


@pytest.mark.parametrize(
    "state", [{}, {"epoch": 0}, {"epoch": -1, "position": 0}, {"epoch": 0, "position": 6}]
)
def test_a_foreign_state_is_refused(state: dict[str, int]) -> None:
    source = InMemory(ramp(5), batch_size=2)
    with pytest.raises(CheckpointError):
        source.load_state_dict(state)


def test_augmentation_depends_on_epoch_and_image_alone() -> None:
    def epochs(batch_size: int) -> list[torch.Tensor]:
        source = InMemory(
            ramp(30), batch_size=batch_size, seed=2, augmentation=CropAndFlip(padding=2)
        )
        results = []
        for _ in range(2):
            batches = list(source)
            numbers = torch.cat([batch.index for batch in batches])
            results.append(torch.cat([batch.images for batch in batches])[numbers.argsort()])
        return results

    wide, narrow = epochs(30), epochs(4)
    assert all(torch.equal(one, other) for one, other in zip(wide, narrow, strict=True))
    changed = (wide[0] != wide[1]).flatten(1).any(1)
    assert int(changed.sum()) > 20


def test_evaluation_goes_in_order() -> None:
    data = ramp(7)
    source = in_order(data, batch_size=3)
    assert source.size == 7
    batches = list(source)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([batch.images for batch in batches]), data.images.float() / 255)
    assert torch.equal(torch.cat([batch.index for batch in batches]), data.index)
    assert [len(batch) for batch in source] == [3, 3, 1], "and again"


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(SettingError, match="batch_size=0"):
        InMemory(ramp(5), batch_size=0)
    with pytest.raises(SettingError, match="batch_size=0"):
        in_order(ramp(5), batch_size=0)
