"""The page without a browser: whole, harmless, self-contained, and small."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lrat.errors import RunFolderError
from lrat.evaluation.statistics import Proportion
from lrat.reporting.report import render_report, write_report
from lrat.reporting.report.records import GroupRecord, ReportRecord, RunRecord
from reporting.report import made

VOID = {"meta", "link", "img", "input", "br", "circle", "path", "hr"}


class Page(HTMLParser):
    """What a browser would find: elements, their text, ids, and scripts by their content."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.script_ids: list[str] = []
        self.words: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")
            self.script_ids.append(dict(attrs).get("id") or "")
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def embedded(self, identity: str) -> Any:
        """The JSON of the script element of this id."""
        return json.loads(self.scripts[self.script_ids.index(identity)])


def page_of(record: ReportRecord) -> Page:
    page = Page(render_report(record))
    assert not page.open
    assert not page.unbalanced
    assert len(page.ids) == len(set(page.ids))
    return page


@pytest.fixture(scope="module")
def three() -> Page:
    return page_of(made.report([made.run(k, trained=3, images=4) for k in range(3)]))


def test_every_section_speaks_of_the_runs(three: Page) -> None:
    for words in (
        "sat-seed-0 has the best worst case.",
        "97.0 [93.0, 100.0]",
        "no significant difference from the best",
        "Exact McNemar tests on the same images",
        "digits, apgd-ce, linf",
        "68.0 % in epoch 1, 61.0 % at the end",
        "Epoch 2: The loss rose tenfold.",
        "The 20 % most vulnerable of 1,437 training images by each view.",
        "report the worst case",
        "2 min 06 s",
        "lrat train gairat --data digits --out runs/gairat-seed-0",
        "ab" * 32,
        "numpy 2.4",
        "lrat report runs/* --out report.html",
    ):
        assert words in three.text, words


def test_nothing_is_fetched_from_anywhere(three: Page) -> None:
    loading = {"src", "href", "srcset", "action", "poster", "data", "content"}
    addresses = [value for _, name, value in three.attributes if name in loading]
    assert not [each for each in addresses if re.search(r"https?:|//", each)]
    policy = next(value for value in addresses if value.startswith("default-src"))
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_handlers_are_never_attributes(three: Page) -> None:
    assert not [name for _, name, _ in three.attributes if name.startswith("on")]


def test_whatever_names_hold_is_text() -> None:
    evil = made.HARMFUL + '" onmouseover="alert(2)" {{ 7 * 7 }} {% raw %}'
    run = made.run(0, name=evil, data=evil, images=2, trained=2)
    run = replace(run, method=evil, config=f"a: '{evil}'", commands=[evil], problems=[f"`{evil}`"])
    record = replace(made.report([run, made.run(1, trained=2)]), title=evil, command=evil)
    page = page_of(record)
    assert evil in page.text
    assert not [tag for tag, _, value in page.attributes if tag == "img" and value == "x"]
    assert not [name for _, name, _ in page.attributes if name == "onmouseover"]
    assert not [each for each in page.scripts if each.startswith("alert(")]


def test_names_in_charts_hold_no_tags() -> None:
    page = page_of(made.report([made.run(k, name=f"<b>{k}</b>", trained=2) for k in range(2)]))
    figures = json.dumps(page.embedded("chart-data"))
    assert "<b>" not in figures
    assert "&lt;b&gt;0" in figures


def test_an_empty_report_says_so() -> None:
    page = page_of(made.report([], groups=[]))
    assert "No run folder could be read." in page.text
    bare = page_of(replace(made.report([], groups=[], problems=["x is no run."]), summary=[]))
    assert "There is no run to report on." in bare.text
    assert "x is no run." in bare.text


def test_a_run_with_nothing_says_what_each_section_needs() -> None:
    run = RunRecord(
        name="bare",
        folder="runs/bare",
        method="sat",
        state="unfinished",
        data="digits",
        model="small-cnn",
        threat="linf:0.2",
        training_seed=None,
        problems=["Training stopped: `lrat train` goes on."],
    )
    page = page_of(made.report([run], groups=[]))
    for words in (
        "No run has been evaluated.",
        "there is nothing to compare",
        "lrat curve RUN",
        "No run has a recorded epoch",
        "training.record_weights",
        "lrat analyse RUN",
        "No run has been checked.",
        "No evaluation kept images.",
        "No run has recorded what its training took.",
        "unfinished",
        "Training stopped:",
    ):
        assert words in page.text, words


def test_missing_attacks_and_unknown_numbers_are_dashes() -> None:
    runs = [made.run(0), made.run(1, attacks=("natural", "pgd-20"))]
    unknown = {"training, clean": {1: float("nan")}, "held out, pgd": {1: float("inf")}}
    runs[0] = replace(runs[0], accuracy=unknown)
    page = page_of(made.report(runs))
    assert "–" in page.text
    assert "nan" not in page.text.lower().split()
    assert "NaN" not in json.dumps(page.embedded("chart-data"))


def test_groups_that_name_unknown_runs_or_nobody_are_left_out() -> None:
    run = made.run(0)
    groups = [
        GroupRecord(
            key="g", title="known", runs=[run.name, "gone"], pairs=[], sentences=[], test=""
        ),
        GroupRecord(key="h", title="elsewhere", runs=["gone"], pairs=[], sentences=[], test=""),
    ]
    page = page_of(made.report([run], groups))
    assert "known" in page.text
    assert "elsewhere" not in page.text


def test_groups_of_one_title_are_told_apart() -> None:
    runs = [made.run(0), made.run(1, group="h")]
    groups = [made.group([runs[0]], "g", "digits"), made.group([runs[1]], "h", "digits")]
    assert "digits (2)" in page_of(made.report(runs, groups)).text


def test_a_thousand_classes_take_the_room_of_the_few_that_are_shown() -> None:
    run = made.run(0, classes=1000, images=3)
    page = page_of(made.report([run]))
    gallery = page.embedded("gallery-data")
    (shown,) = gallery["runs"]
    assert 3 <= len(shown["classes"]) <= 12


def test_ten_runs_with_many_pictures_stay_below_ten_megabytes() -> None:
    few = ("natural", "pgd-20")
    runs = [made.run(0, size=32, channels=3, images=50, trained=60, attacks=few)] * 10
    # Other pixels for every run: equal pictures are stored once.
    for k, run in enumerate(runs):
        assert run.gallery is not None
        images = [replace(each, image=each.image * (1 - 0.01 * k)) for each in run.gallery.images]
        name = f"run-{k}"
        runs[k] = replace(run, name=name, gallery=replace(run.gallery, images=images))
    page = render_report(made.report(runs))
    assert len(page.encode()) < 10_000_000
    assert "of the 50 at hand" in page


def test_an_unweighted_method_gets_a_sentence_and_no_chart() -> None:
    run = made.run(0, trained=2)
    even = replace(run.weights[0], mean=[1.0, 1.0], effective=[1.0, 1.0], below=[0.0, 0.0])
    page = page_of(made.report([replace(run, weights=[even])]))
    assert "this method weighs nothing" in page.text
    assert "Effective sample size and share" not in str(page.attributes)


def test_matrices_of_many_runs_are_short_and_hold_every_pair() -> None:
    runs = [made.run(k, images=1, trained=1) for k in range(14)]
    page = page_of(made.report(runs))
    cells = [value for tag, name, value in page.attributes if tag == "td" and name == "title"]
    assert len([each for each in cells if "], p " in each]) == 14 * 13 * 5


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    record = made.report([made.run(0, trained=1, images=1)])
    path = tmp_path / "new" / "report.html"
    size = write_report(record, path)
    assert size == path.stat().st_size
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        write_report(record, tmp_path / "file" / "report.html")


def test_intervals_beyond_the_scale_are_drawn_as_given() -> None:
    run = made.run(0, trained=1)
    sure = Proportion(value=1.0, low=0.989, high=1.0, n=360)
    evaluation = replace(run.evaluations[0], worst_case=sure)
    page = page_of(made.report([replace(run, evaluations=[evaluation])]))
    assert "100.0 [98.9, 100.0]" in page.text
