"""Short trainings against their stored losses, to 1e-3 relative across machines and versions."""

import itertools

import pytest

from golden.traces import PHASES, losses_of, stored


def test_every_trace_is_stored() -> None:
    assert list(stored()) == list(PHASES)


@pytest.mark.parametrize("trace", PHASES)
def test_losses_are_as_stored(trace: str) -> None:
    """Changed on purpose? ``python tests/golden/renew.py``, and say why in the commit."""
    assert losses_of(trace) == pytest.approx(stored()[trace], rel=1e-3)


def test_traces_tell_methods_apart() -> None:
    """Else a mix-up of two methods would pass. GAIRAT is SAT until its bootstrap ends."""
    losses = stored()
    assert losses.pop("gairat") == losses["sat"]
    ends = sorted(trace[-1] for trace in losses.values())
    assert all(high > low * 1.003 for low, high in itertools.pairwise(ends))
