"""Locally reweighted adversarial training, its baselines, and evaluation one can defend."""

__version__ = "0.1.0.dev0"
