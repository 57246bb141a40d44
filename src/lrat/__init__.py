"""Locally reweighted adversarial training, its baselines, and evaluation one can defend.

Names are imported when first used, so that ``import lrat`` and ``lrat --help`` stay light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_ADDRESSES = {
    "fit": "lrat.experiments.api.fit",
    "evaluate": "lrat.experiments.api.evaluate",
    "check_masking": "lrat.experiments.api.check_masking",
    "compare": "lrat.experiments.compare.compare",
    "report": "lrat.reporting.report.write_run_report",
    "load": "lrat.experiments.export.load",
    "FitResult": "lrat.experiments.api.FitResult",
    "EvaluationResult": "lrat.evaluation.EvaluationResult",
    "LratError": "lrat.errors.LratError",
    "accelerate": "lrat.acceleration.accelerate",
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

__all__ = ["__version__", *_ADDRESSES, *_MODULES]  # noqa: PLE0604 - strings, all of them


def __getattr__(name: str) -> Any:
    if name in _ADDRESSES:
        module, _, attribute = _ADDRESSES[name].rpartition(".")
        return getattr(import_module(module), attribute)
    if name in _MODULES:
        return import_module(f"lrat.{name}")
    raise AttributeError(f"module 'lrat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
