"""A step that does not fit into memory ends with the largest batch that does."""

import pytest
import torch
from torch import nn

from lrat.errors import MemoryShortError
from training.toys import ToySource, network, run, weights


class Narrow(nn.Module):
    """A model for at most ``room`` images at a time that want a gradient."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.model = network(normalised=False)
        self.room = room

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self.model(images)


@pytest.mark.parametrize(
    ("room", "size", "accumulate", "said"),
    [
        (5, 8, 1, "does is 5: batch_size=4 with accumulate=2 makes the same step"),
        (3, 8, 1, "does is 3: batch_size=2 with accumulate=4"),
        (7, 8, 3, "does is 7: batch_size=4 with accumulate=6"),
        (1, 2, 1, "does is 1: batch_size=1 with accumulate=2"),
        (0, 8, 1, "nor does a single image"),
    ],
)
def test_the_largest_batch_that_fits_is_named(
    room: int, size: int, accumulate: int, said: str
) -> None:
    model = Narrow(room)
    before = weights(model)
    with pytest.raises(MemoryShortError, match=said) as caught:
        run(model=model, source=ToySource(size=size), accumulate=accumulate)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    assert all(value.grad is None for value in model.parameters())


def test_what_it_advises_works() -> None:
    run(model=Narrow(5), source=ToySource(size=4), accumulate=2, epochs=1)


def test_other_errors_pass() -> None:
    class Failing(Narrow):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(model=Failing(1))
