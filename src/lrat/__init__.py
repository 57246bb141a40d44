"""Locally reweighted adversarial training, its baselines, and evaluation one can defend.

Names are imported when first used, so that ``import lrat`` and ``lrat --help`` stay light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_PLACES = {
    "fit": "lrat.experiments.api",
    "evaluate": "lrat.experiments.api",
    "check_masking": "lrat.experiments.api",
    "FitResult": "lrat.experiments.api",
    "EvaluationResult": "lrat.evaluation",
    "LratError": "lrat.errors",
    "accelerate": "lrat.acceleration",
}
_MODULES = (
    "acceleration",
    "attacks",
    "data",
    "errors",
    "evaluation",
    "experiments",
    "losses",
    "methods",
    "models",
    "objectives",
    "randomness",
    "threat",
    "training",
    "types",
    "weighting",
)

__all__ = ["__version__", *_PLACES, *_MODULES]  # noqa: PLE0604 - strings, all of them


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _MODULES:
        return import_module(f"lrat.{name}")
    raise AttributeError(f"module 'lrat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
