"""What all figures share: sizes, colours, fonts, how names are written and files are saved."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lrat.files.write import write_atomically, write_text
from lrat.text import storable

COLUMN = 3.25
"""Width of a paper's column, in inches; ``PAGE`` is that of its text."""
PAGE = 6.9
DPI = 300
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can tell apart (Okabe & Ito 2008), without the yellow, which
white paper swallows."""
GREY = "#bdbdbd"
CONSISTENT, INCONSISTENT = "#D55E00", "#0072B2"
"""The paper's red and blue (Figure 3), as hues that all readers can tell apart."""
_OF_ATTACK = {"pgd": "#E69F00", "cw": "#0072B2", "saa": "#009E73", "gd": "#CC79A7"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
"""A second sign besides the colour; more lines than colours differ in it alone."""
_SETTINGS: dict[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "savefig.dpi": DPI,
    # Type 42 keeps text in a PDF as text, which publishers ask for.
    "pdf.fonttype": 42,
    # Names are shown as they are: no mathematics between dollar signs.
    "text.parse_math": False,
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure's files, and the caption that says what it shows and how it was computed."""

    pdf: Path
    png: Path
    caption: str


def colour_of(name: str, index: int) -> str:
    """The colour of an attack or a view, the same in all figures: ``cw-20`` is CW's. Others take
    the colour of their ``index`` among the lines."""
    kind = name.lower().removeprefix("v_").partition("-")[0]
    return _OF_ATTACK.get(kind, OKABE_ITO[index % len(OKABE_ITO)])


@contextmanager
def our_style() -> Iterator[None]:
    """Our settings alone inside, whatever a user's matplotlibrc says; the user's afterwards."""
    import matplotlib

    settings: Any = _SETTINGS
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure in inches, without pyplot: no global figure and no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def shortened(name: str, longest: int = 32) -> str:
    """A name in bounded length: of a long one its end, in which paths differ."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def legend(axes: Any, handles: Sequence[Any], names: Sequence[str], **options: Any) -> Any:
    """A legend that shows every name, also one with a leading underscore, which hides a line."""
    shown = axes.legend(handles, [str(index) for index in range(len(names))], **options)
    for text, name in zip(shown.get_texts(), names, strict=True):
        text.set_text(name)
    return shown


def light_grid(axes: Any, which: str = "both") -> None:
    """Thin grey lines below everything else; ``which``: both, x or y."""
    axes.grid(visible=True, axis=which, color="#e3e3e3", linewidth=0.4)
    axes.set_axisbelow(True)


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only, at least one."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))


def widened(low: float, high: float, share: float = 0.05) -> tuple[float, float]:
    """Limits of an axis with some room at both ends, also where all values are equal."""
    room = share * (high - low) or max(abs(high), 1.0) * share
    return low - room, high + room


def paintable(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of an image [C H W]: [H W] for one channel (or the mean of an unusual number of them),
    [H W 3] for colours."""
    shown: npt.NDArray[Any] = (
        image[:3].transpose(1, 2, 0) if len(image) in {3, 4} else image.mean(0)
    )
    return shown


def frame(axes: Any, lines: Sequence[str], *, longest: int, pad: float) -> None:
    """A picture's frame without ticks, under a title of lines of at most so many letters."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(True)
    axes.set_title("\n".join(shortened(line, longest) for line in lines), fontsize=7, pad=pad)


def save(figure: Any, stem: Path, caption: str) -> Drawn:
    """``stem``.pdf, .png and .txt (the caption), each whole or not there; equal for equal content.

    An ending of ``stem`` that is one of these is dropped.
    """
    if stem.suffix in {".pdf", ".png", ".txt"}:
        stem = stem.with_suffix("")
    caption = storable(caption)
    for text in figure.findobj(_has_text):
        text.set_text(storable(text.get_text()))
    pdf, png, words = (stem.with_name(f"{stem.name}{end}") for end in (".pdf", ".png", ".txt"))
    with warnings.catch_warnings():
        # Names may hold signs that the font lacks: they become boxes.
        warnings.filterwarnings("ignore", message=".*Glyph.*missing")
        for path, about in (
            (pdf, {"Subject": caption, "CreationDate": None}),
            (png, {"Description": caption, "Software": None}),
        ):
            write_atomically(path, partial(figure.savefig, format=path.suffix[1:], metadata=about))
    write_text(words, caption + "\n")
    return Drawn(pdf=pdf, png=png, caption=caption)


def _has_text(artist: Any) -> bool:
    return hasattr(artist, "set_text")
