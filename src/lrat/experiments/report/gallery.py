"""The images that an evaluation kept, with what every attack made of them."""

from collections.abc import Sequence
from typing import Any

from lrat.experiments.report.evaluations import Evaluated
from lrat.experiments.report.reading import Folder
from lrat.reporting.report.records import GalleryRecord


def gallery(
    evaluations: Sequence[Evaluated], home: Folder, class_names: Any
) -> GalleryRecord | None:
    """Of the evaluation that is compared first, else of the next that kept images."""
    return None
