"""Where the long checks write down what they saw: a section each, without dates or machines."""

import os
import platform
import re
from pathlib import Path

import numpy
import torch

import lrat

VARIABLE = "LRAT_SOAK_RECORD"
"""Names the file; ``make soak`` sets it."""
_HEAD = """# Long checks

`make soak` runs them and writes this page; one that fails leaves its section as it was.
"""


def keep(title: str, body: str, *, page: str | None = None) -> None:
    """Put ``body`` under ``## title``, in place of what stood there; nothing without a file.

    ``page``: another one beside that file.
    """
    if VARIABLE not in os.environ:
        return
    path = Path(os.environ[VARIABLE])
    path = path if page is None else path.with_name(page)
    text = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = dict(part.split("\n", 1) for part in parts[1:])
    sections[title] = f"\n{body.strip()}\n\n{versions()}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = "".join(f"\n## {name}\n{content.rstrip()}\n" for name, content in sections.items())
    path.write_text(f"{parts[0].rstrip()}\n{whole}", encoding="utf-8")


def versions() -> str:
    """What it was run with."""
    return (
        f"lrat {lrat.__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {numpy.__version__}, {platform.system()} {platform.machine()}"
    )
