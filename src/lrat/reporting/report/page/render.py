"""The page: templates, style and script of this package and plotly.js in one file."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from lrat import text
from lrat.files.write import remove_leftovers, write_atomically
from lrat.reporting.report.page.charts import Figure, cost_figure, overview, security_curves
from lrat.reporting.report.page.gallery import gallery_data
from lrat.reporting.report.page.results import (
    differing_settings,
    group_tables,
    masking_table,
    without_group,
)
from lrat.reporting.report.page.training_charts import (
    all_equal,
    compared_learning,
    effective_size,
    in_open_bin,
    learning_curve,
    weight_histogram,
)
from lrat.reporting.report.records import ReportRecord
from lrat.text import storable

STYLES = ("base.css", "layout.css", "tables.css", "parts.css", "print.css")
SCRIPTS = ("charts.js", "tables.js", "gallery.js", "controls.js")


def write_report(record: ReportRecord, path: Path) -> int:
    """Write the page to ``path``, whole or not at all; returns its size in bytes.

    Raises ``RunFolderError`` on a full disk or a read-only folder.
    """
    content = storable(render_report(record)).encode()
    remove_leftovers(path.parent, name=path.name)
    write_atomically(path, lambda file: file.write(content))
    return len(content)


def render_report(record: ReportRecord) -> str:
    """The report as one HTML page that needs no other file and no network.

    Whatever the record holds is shown as text: names with tags in them stay names.
    """
    charts = Charts()
    groups = group_tables(record)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            report=record,
            runs=list(enumerate(record.runs)),
            groups=groups,
            compared=[table for table in groups if table.matrices and len(table.rows) > 1],
            ungrouped=without_group(record),
            masking=masking_table(record),
            differing=differing_settings([run for run in record.runs if run.config]),
            gallery=gallery_data(record.runs),
            charts=charts,
            overview=overview,
            security=security_curves(record),
            learning_curve=learning_curve,
            compared_learning=compared_learning(record),
            all_equal=all_equal,
            effective_size=effective_size,
            in_open_bin=in_open_bin,
            weight_histogram=weight_histogram,
            cost_figure=cost_figure,
            costs=_kinds_of_passes(record),
            configured=[run for run in record.runs if run.config],
            style=_joined(STYLES),
            theme=_joined(["theme.js"]),
            script=_joined(SCRIPTS),
            plotly=_plotly,
            embedded=embedded,
        )
    )
    return f"{page}\n"


class Charts:
    """The figures of a page by their number, gathered while the templates are rendered."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def add(self, figure: Figure) -> int:
        """Keep a figure for the page's script; returns its number."""
        self.figures.append(figure.plain)
        return len(self.figures) - 1


def embedded(value: Any) -> Any:
    """JSON that is safe inside a script element: no text in it can end the element."""
    from markupsafe import Markup

    plain = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(plain)  # noqa: S704 -- escaped in the lines above


def prose(sentence: str) -> Any:
    """A sentence, escaped; the text between backticks is shown as code."""
    from markupsafe import Markup, escape

    parts = sentence.split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def day(moment: str) -> str:
    """An ISO 8601 moment to the minute, as ``2026-03-01 12:00``; anything else as it is."""
    date, apart, time = moment.partition("T")
    return f"{date} {time[:5]}" if apart and len(time) >= 5 else moment


@cache
def _environment() -> Any:
    """The templates, read once: compiling them takes longer than filling them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lrat.reporting.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _filters()
    return environment


def _filters() -> Mapping[str, Callable[..., Any]]:
    return {
        "percent": partial(text.percent, unit=""),
        "interval": lambda share: text.in_brackets(share.low, share.high),
        "points": text.signed,
        "p_value": text.short_p,
        "number": text.number,
        "duration": lambda seconds: (
            f"{seconds:.1f} s" if seconds < 9.95 else text.duration(seconds)
        ),
        "counted": text.counted,
        "day": day,
        "prose": prose,
    }


def _kinds_of_passes(record: ReportRecord) -> list[str]:
    costs = [run.cost for run in record.runs if run.cost is not None]
    return list(dict.fromkeys(kind for cost in costs for kind in cost.passes))


def _joined(names: Sequence[str]) -> Any:
    """Files of this package, one after the other, to be put into the page as they are."""
    from markupsafe import Markup

    home = files("lrat.reporting.report") / "static"
    texts = [(home / name).read_text(encoding="utf-8") for name in names]
    return Markup("\n".join(texts))  # noqa: S704 -- files of this package


def _plotly() -> Any:
    """plotly.js as the installed package ships it."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())  # noqa: S704 -- the library itself
