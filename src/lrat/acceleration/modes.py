"""Evaluation mode for the time of an attack, restored always."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside; each module's own mode back afterwards, even on an error.

    Per module: a user's frozen BatchNorm inside a training model stays frozen.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, training in modes:
            if training:
                module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
