"""Logits from whatever a classifier returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lrat.errors import ModelError


def logits_of(output: Any) -> Tensor:
    """Float32 logits of a model's output, of whatever shape they are; see ``raw_logits``."""
    return raw_logits(output).float()


def raw_logits(output: Any) -> Tensor:
    """The tensor itself: the output, the first of a tuple or list, or what is named ``logits``.

    Raises ModelError for an output that holds no logits in any of these ways.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple | list) and output:
        found = output[0]
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise ModelError(
            f"the model returns {type(output).__name__}: needed are logits, as a tensor, the first "
            "of a tuple, or under the name 'logits'"
        )
    return found
