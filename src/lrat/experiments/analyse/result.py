"""What an analysis is asked for, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lrat.analysis.views import Columns
from lrat.checks import FLAG, check_fields, number, one_of, whole
from lrat.experiments.analyse.ranking import Ranking
from lrat.experiments.analysing_subject import Part


@dataclass(frozen=True, kw_only=True)
class AnalysisRequest:
    """What to analyse; ``limit`` None all images of the part. ``top``: the share called most
    vulnerable. ``points``: images in the t-SNE, 0 for none. ``again``: repeat both attacks from
    other starts. ``saa``: measure SAA's margins as well."""

    checkpoint: str = "selected"
    part: Part = "train"
    limit: int | None = None
    top: float = 0.2
    points: int = 2000
    seed: int = 0
    again: bool = False
    saa: bool = False
    batch_size: int = 256
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(
            self,
            "",
            part=one_of(get_args(Part)),
            top=number(above=0, below=1, example=0.2),
            points=whole(0, example=2000),
            seed=whole(0, example=1),
            again=FLAG,
            saa=FLAG,
        )

    def folder_name(self, images: int) -> str:
        """``selected-train-10000``; seed and additional attacks are told where there are some."""
        name = f"{self.checkpoint}-{self.part}-{images}"
        name += f"-seed-{self.seed}" if self.seed else ""
        name += "-again" if self.again else ""
        return name + ("-saa" if self.saa else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What was found, as it lies in ``folder``: ``summary`` and ``overlap`` as JSON has them, the
    tables by column. ``weights`` and ``embedding`` are None where there is nothing to show."""

    folder: Path
    summary: dict[str, Any]
    overlap: dict[str, Any]
    views: Columns
    weights: Columns | None
    embedding: Columns | None
    rankings: tuple[Ranking, ...] = ()
    figures: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """Short tables, the notes, and where everything lies."""
        from lrat.experiments.analysing_words import words_of

        return words_of(self)
