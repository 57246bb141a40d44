"""The paper's rows as configurations, and its numbers beside which ours are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrat.errors import UnknownNameError

FIGURES: Mapping[str, str] = {
    "figure1": "GAIRAT's weights; test accuracy per epoch under PGD and CW, SAT and GAIRAT",
    "figure2": "the ranking of attacks over data sets, SAT, TRADES and their early-stopped models",
    "figure3": "t-SNE of SAT's outputs: where views agree on the most vulnerable images",
    "figure4": "the idea of local reweighting, from real images",
    "figure5": "V_PGD and V_CW of the GAIRAT model, and the most vulnerable images of either view",
    "figure6": "test accuracy per epoch of GAIRAT's weighting with CW as the simulated attack",
}
PARTS: Mapping[str, str] = {"figure1": "abc", "figure3": "abcd", "figure5": "abcdef"}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """Test accuracy in per cent: CIFAR-10, ResNet-18, L_inf 8/255."""

    natural: float
    pgd: float
    cw: float
    autoattack: float


def _row(natural: float, pgd: float, cw: float, autoattack: float) -> PaperRow:
    return PaperRow(natural=natural, pgd=pgd, cw=cw, autoattack=autoattack)


TABLE_1: Mapping[str, PaperRow] = {
    "sat": _row(83.17, 51.14, 49.95, 46.12),
    "gairat": _row(79.69, 60.82, 38.69, 32.14),
    "lsat-cw": _row(80.40, 50.49, 52.03, 45.26),
    "lsat-saa": _row(81.58, 55.04, 51.84, 46.95),
    "lrat-cw": _row(79.65, 50.01, 54.27, 45.09),
    "lrat-saa": _row(81.02, 54.49, 51.05, 47.34),
    "lrat-saa+cw": _row(80.69, 53.56, 52.02, 46.67),
}
TABLE_2: Mapping[str, PaperRow] = {
    "gd+cw": _row(79.40, 58.12, 42.95, 36.09),
    "gd+saa": _row(80.47, 58.55, 41.05, 40.71),
    "lrat-saa+cw": TABLE_1["lrat-saa+cw"],
    "saa+cw+gd": _row(80.13, 57.28, 45.15, 38.47),
}

DEMO_PRESET: Mapping[str, Any] = {
    "threat": "linf:0.2",
    "data": {"name": "digits"},
    "model": {"name": "small-cnn"},
    "training": {"epochs": 30, "batch_size": 64, "lr": 0.1},
    "seed": 0,
}
"""Digits at epsilon .2: small enough for two processor cores, hard enough to tell rows apart."""


def whole_and_part(name: str) -> tuple[str, str]:
    """``figure3b`` is ("figure3", "b"); ``UnknownNameError`` for what the paper has not."""
    whole, part = name[: len("figure1")], name[len("figure1") :]
    if whole not in FIGURES or (part and part not in PARTS.get(whole, "")) or len(part) > 1:
        known = [*FIGURES, *(f"{each}{part}" for each, parts in PARTS.items() for part in parts)]
        raise UnknownNameError("figure", name, known)
    return whole, part
