"""What suites and runs are called in commands and folders; no torch here."""

from pathlib import Path

from lrat.config import catalogue


def run_name(run: Path | str) -> str:
    """A run folder's own name, also for ``.`` and ``runs/a/``."""
    return Path(run).resolve().name


def names_a_file(name: str) -> bool:
    """Whether a suite's name means a YAML file."""
    return name.endswith((".yaml", ".yml"))


def check_suite(name: str) -> str:
    """``UnknownNameError`` for a suite that is neither known nor a file, before anything else."""
    return name if names_a_file(name) else catalogue.check_suite_name(name)


def slug(name: str) -> str:
    """A suite's name in the names of folders: of a file its stem, told apart from ours."""
    if not names_a_file(name):
        return name
    stem = Path(name).stem
    return f"{stem}-file" if stem in catalogue.SUITES else stem
