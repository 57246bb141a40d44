"""Whether bfloat16 pays is what the processor does, not only what it has instructions for."""

import platform

import pytest
import torch

from lrat.acceleration import choice


@pytest.mark.parametrize(
    ("tiles", "instructions", "times", "pays"),
    [
        (True, True, (1.0, 9.0), True),
        (False, False, (9.0, 1.0), False),
        (False, True, (1.0, 1.6), False),
        (False, True, (1.7, 1.0), True),
    ],
)
def test_bfloat16_pays_where_it_is_faster(
    tiles: bool,
    instructions: bool,
    times: tuple[float, float],
    pays: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(choice, "_best_times", lambda *works: list(times))
    assert choice._bfloat16_pays.__wrapped__("cpu") is pays
