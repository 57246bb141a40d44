"""A step that does not fit: what is found, what is said; in a real process with little memory."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lrat.errors import MemoryShortError
from lrat.outputs import is_memory_error
from lrat.training import memory
from lrat.training.memory import largest_fitting, shortage
from training.toys import ToySource, assert_same, data, network, run

CPU = torch.device("cpu")


def real_error() -> BaseException:
    """What PyTorch raises where the machine has not so much memory."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (real_error(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory of the past"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_of_memory(error: BaseException, is_one: bool) -> None:
    assert is_memory_error(error) is is_one


def up_to(limit: int, tried: list[int]) -> Callable[[int], None]:
    def attempt(count: int) -> None:
        tried.append(count)
        if count > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return attempt


@pytest.mark.parametrize(
    ("limit", "batch"), [(0, 1), (0, 7), (1, 2), (5, 13), (48, 128), (127, 128), (700, 4096)]
)
def test_the_largest_that_fits_is_found_in_few_attempts(
    limit: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "release", lambda: None)  # slow beside so many objects
    tried: list[int] = []
    assert largest_fitting(up_to(limit, tried), batch) == limit
    assert len(tried) <= batch.bit_length()
    assert all(0 < count < batch for count in tried)


def test_memory_is_held_for_what_comes_later() -> None:
    seen: list[int] = []
    alive = torch.ones(7)

    def attempt(count: int) -> None:
        import gc

        tensors = [each for each in gc.get_objects() if type(each) is Tensor]
        seen.append(sum(each.shape == alive.shape for each in tensors))

    largest_fitting(attempt, 2)
    largest_fitting(attempt, 2, reserve=[alive, alive])
    assert seen[1] == seen[0] + 2


def test_a_layer_that_refuses_few_images_hides_nothing() -> None:
    norm = nn.BatchNorm1d(2)

    def attempt(count: int) -> None:
        norm(torch.ones(count, 2))  # refuses one image
        up_to(1, [])(count)

    assert largest_fitting(attempt, 8) == 0


@pytest.mark.parametrize(
    ("fits", "batch", "accumulate", "cure"),
    [
        (48, 128, 1, "batch_size=32 with accumulate=4 makes the same step"),
        (127, 128, 2, "batch_size=64 with accumulate=4 makes the same step"),
        (1, 3, 1, "batch_size=1 with accumulate=3 makes the same step"),
        (60, 127, 1, "batch_size=60 with accumulate=3 makes about the same step"),
    ],
)
def test_the_cure_keeps_the_step(fits: int, batch: int, accumulate: int, cure: str) -> None:
    said = str(shortage(fits, batch, CPU, accumulate=accumulate))
    assert said.startswith(f"a batch of {batch} does not fit into the memory of cpu; the largest")
    assert f"that does is {fits}: {cure} (--set training.batch_size=" in said
    assert "\n" not in said


def test_where_no_image_fits_no_batch_is_named() -> None:
    assert "nor does a single image" in str(shortage(0, 128, CPU))


class Greedy(nn.Module):
    """Runs out of memory above some images, in train mode alone: attacks are spared here."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.network = network()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(images)} images")
        logits: Tensor = self.network(images)
        return logits


def test_a_run_ends_with_the_largest_batch_and_its_weights_untouched() -> None:
    model = Greedy(5)
    said = r"^a batch of 13 does not fit into the memory of cpu; the largest that does is 5: "
    with pytest.raises(MemoryShortError, match=said):
        run(model=model, source=ToySource(size=13))
    assert_same(dict(model.network.named_parameters()), dict(network().named_parameters()))
    assert all(value.grad is None for value in model.parameters())
    run(model=model, source=ToySource(data(25), size=5), epochs=1)


LITTLE = """
import resource

import torch
from torch import nn

from lrat.errors import MemoryShortError
from lrat.training import Watch
from training.toys import ToySource, Weighted, data, run

torch.set_num_threads(1)
small = Watch(clean=[data(2)])  # measuring shall not be what does not fit


class Wide(nn.Module):
    # Keeps about 1 MiB per image for its backward pass.

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, images):
        flat = images.flatten(1)
        wide = flat.repeat(1, 2**13).sin().exp()
        return self.layer(flat + wide[:, :16])


def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def attempt(size):
    try:
        run(model=Wide(), source=ToySource(data(256), size=size), watch=small, epochs=1)
    except MemoryShortError as error:
        return str(error)
    return "it fits"


run(model=Wide(), source=ToySource(data(4), size=2), watch=small, epochs=1)  # all pools are made
resource.setrlimit(resource.RLIMIT_AS, (mapped() + 100 * 2**20, resource.RLIM_INFINITY))
print(attempt(256))
print(attempt(16))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the memory mapped by a process")
def test_in_a_process_with_little_memory() -> None:
    """The allocator itself fails, above some tens of images of a MiB each."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # fixed: freed tensors leave no holes in the heap
    }
    ended = subprocess.run(
        [sys.executable, "-c", LITTLE],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    short, enough = ended.stdout.splitlines()
    said = re.match(r"a batch of 256 does not fit into the memory of cpu; the largest that does "
                    r"is (\d+): batch_size=(\d+) with accumulate=(\d+)", short)  # fmt: skip
    assert said is not None, short
    fits, size, parts = map(int, said.groups())
    assert 20 <= fits < 128
    assert size <= fits
    assert size * parts == 256
    assert enough == "it fits"
