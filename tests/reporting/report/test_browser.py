"""The page in a real browser: nothing fetched, nothing complained of, everything within reach."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrat.reporting.report import write_report
from reporting.report import made

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is here"),
    pytest.mark.xdist_group("browser"),  # one browser for all tests here
]
SCREEN = {"width": 1200, "height": 900}
RESULTS = "table.results >> nth=0"


class Shown:
    """A page on the screen, and whatever it asked for or complained of."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.address = path.as_uri()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.set_default_timeout(90_000)  # a busy machine draws slowly
        page.goto(self.address)

    def texts(self, selector: str) -> list[str]:
        """The text of every element that can be seen."""
        found: list[str] = self.page.locator(selector).filter(visible=True).all_inner_texts()
        return found

    def runs(self) -> list[str]:
        """The runs of the first table of results, from top to bottom."""
        return self.texts(f"{RESULTS} >> tbody th a")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [made.run(k, images=8 if k == 0 else 2, classes=4, trained=2) for k in range(3)]
    elsewhere = made.run(3, group="h", data="mnist", images=0, trained=0)
    groups = [made.group(runs), made.group([elsewhere], "h", "mnist")]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(made.report([*runs, elsewhere], groups), path)
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Shown:
    """One page for all tests; each leaves its filters as it found them."""
    return Shown(browser.new_page(viewport=SCREEN, reduced_motion="reduce"), report)


def test_charts_are_drawn_when_they_come_into_view(opened: Shown) -> None:
    drawn = ".plot[data-drawn] .main-svg"
    opened.page.wait_for_selector(drawn)
    before = len(opened.page.query_selector_all(".plot[data-drawn]"))
    opened.page.locator("#cost .plot").scroll_into_view_if_needed()
    opened.page.wait_for_selector("#cost .plot[data-drawn] .main-svg")
    assert 0 < before < len(opened.page.query_selector_all(".plot[data-drawn]"))


def test_columns_sort_by_mouse_and_keyboard(opened: Shown) -> None:
    head = opened.page.locator(f"{RESULTS} >> thead th")
    names = ["sat-seed-0", "gairat-seed-0", "lsat-cw-seed-0"]
    assert head.last.get_attribute("aria-sort") == "descending"
    assert opened.runs() == names
    head.last.get_by_role("button").click()
    assert head.last.get_attribute("aria-sort") == "ascending"
    assert opened.runs() == names[::-1]
    head.first.get_by_role("button").focus()
    opened.page.keyboard.press("Enter")
    assert head.first.get_attribute("aria-sort") == "ascending"
    assert head.last.get_attribute("aria-sort") == "none"
    assert opened.runs() == sorted(names)
    assert "Sorted by run, ascending" in opened.page.inner_text("#said")


def test_tables_filter_by_text_method_and_data(opened: Shown) -> None:
    page = opened.page
    page.fill("#filter-text", "LSAT seed-0")
    assert opened.runs() == ["lsat-cw-seed-0"]
    assert page.inner_text("#filter-count") == "2 of 4 shown"
    page.fill("#filter-text", "")
    page.select_option("#filter-method", "gairat")
    assert opened.runs() == ["gairat-seed-0"]
    page.select_option("#filter-method", "")
    page.select_option("#filter-data", "mnist")
    assert opened.texts("#results h3") == ["mnist"]
    page.select_option("#filter-data", "")
    assert opened.texts("#results h3") == ["digits, linf:0.2", "mnist"]


def test_the_gallery_switches_attacks_and_filters(opened: Shown) -> None:
    page = opened.page
    assert len(opened.texts("#gallery-cards > li")) == 8
    first = page.locator("#gallery-cards img").nth(1)
    before = first.get_attribute("src")
    page.select_option("#gallery-attack", label="autoattack")
    assert first.get_attribute("src") != before
    page.select_option("#gallery-outcome", "fooled")
    assert page.inner_text("#gallery-count") == "2 of 8 images"
    assert all("fooled" in each for each in opened.texts("#gallery-cards > li .note"))
    page.select_option("#gallery-outcome", "wrong")
    assert opened.texts("#gallery-cards > li .note") == ["wrong without attack, so not attacked"]
    page.select_option("#gallery-outcome", "")
    page.select_option("#gallery-class", "1")
    assert opened.texts("#gallery-cards h3") == ["Image 1: class 1", "Image 5: class 1"]
    page.select_option("#gallery-run", label="gairat-seed-0")
    assert opened.texts("#gallery-cards h3") == ["Image 1: class 1"]
    page.select_option("#gallery-run", label="sat-seed-0")
    page.select_option("#gallery-class", "")


def test_small_images_keep_their_pixels(opened: Shown) -> None:
    picture = opened.page.locator("#gallery-cards img").first
    assert picture.evaluate("each => getComputedStyle(each).imageRendering") == "pixelated"
    assert picture.evaluate("each => [each.naturalWidth, each.width > 80]") == [8, True]


def test_names_with_tags_stay_names(opened: Shown) -> None:
    assert any(made.HARMFUL in each for each in opened.texts("#gallery-cards h3"))
    assert opened.page.query_selector("img[src='x']") is None


def test_matrices_switch_between_attacks(opened: Shown) -> None:
    assert opened.texts("#compare caption") == ["Under worst case"]
    opened.page.select_option("#matrix-0", label="cw-20")
    assert opened.texts("#compare caption") == ["Under cw-20"]
    opened.page.select_option("#matrix-0", label="worst case")


def test_links_open_what_they_lead_to(opened: Shown) -> None:
    panel = opened.page.locator("#run-1")
    assert panel.get_attribute("open") is None
    opened.page.locator("#summary a", has_text="gairat-seed-0").click()
    opened.page.wait_for_selector("#run-1[open]")
    assert panel.locator("dl").first.is_visible()


def test_the_numbers_of_a_chart_can_be_read_as_a_table(opened: Shown) -> None:
    details = opened.page.locator("#curves details.numbers").first
    details.locator("summary").click()
    row = details.locator("tbody tr").first
    row.wait_for()  # a browser tells of an opening a moment later
    assert row.locator("td").all_inner_texts() == ["sat-seed-0", "0", "97 [91.55, 98.97]"]


def test_commands_can_be_copied(opened: Shown) -> None:
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.locator("footer button.copy").click()
    opened.page.locator("footer .copy", has_text="Copied").wait_for()
    copied = opened.page.evaluate("navigator.clipboard.readText()")
    assert copied == "lrat report runs/* --out report.html"


def test_everything_is_reached_by_keyboard_and_seen_there(opened: Shown) -> None:
    page = opened.page
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.tagName"))
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(width.removesuffix("px")) >= 2, reached
    assert {"A", "INPUT", "SELECT", "BUTTON", "DIV", "SUMMARY"} <= set(reached)


def test_dark_and_light_are_chosen_remembered_and_drawn(opened: Shown) -> None:
    page = opened.page
    ground = "getComputedStyle(document.body).backgroundColor"
    grid = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    page.wait_for_selector(".plot[data-drawn] .xtick text")
    light, light_text = page.evaluate(ground), page.evaluate(grid)
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    dark = page.evaluate(ground)
    assert dark != light
    changed = False
    for _ in range(600):  # the page's policy forbids what wait_for_function does
        if changed := page.evaluate(grid) != light_text:
            break
        page.wait_for_timeout(50)
    assert changed, "charts are drawn again in dark colours"
    page.reload()
    assert page.evaluate(ground) == dark
    page.click("#theme")
    assert page.evaluate(ground) == light


def test_four_hundred_pixels_are_enough(opened: Shown) -> None:
    page = opened.page
    page.set_viewport_size({"width": 400, "height": 800})
    for section in ("results", "compare", "learning", "masking", "gallery", "cost", "runs"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wider) == 0
    assert page.locator("table.results").first.evaluate("each => each.offsetWidth") > 400
    page.set_viewport_size(SCREEN)


def test_paper_shows_everything_that_can_be_opened(opened: Shown) -> None:
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    closed = "document.querySelectorAll('details:not([open]):not(.numbers)').length"
    assert page.evaluate(closed) == 0
    assert opened.texts("select, .copy, nav a, #theme") == []
    charts = page.locator(".plot").filter(visible=True)
    assert charts.count() == page.locator(".plot[data-drawn]").filter(visible=True).count() > 5
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(int(part) for part in ink.strip("rgb()").split(",")) < 60
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen", color_scheme="light")
    assert page.evaluate(closed) > 0


def test_no_serious_barrier_in_light_or_dark(opened: Shown) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is missing")
    page = opened.page
    page.evaluate((Path(axe.__file__).with_name("axe.min.js")).read_text(encoding="utf-8"))
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    # What Plotly draws is a picture, its numbers stand beside it; panels of further runs, rows and
    # cards are built as the first ones are.
    alike = (
        ".plot svg",
        ".panel ~ .panel",
        "tr ~ tr ~ tr ~ tr",
        "td ~ td ~ td ~ td",
        ".shot ~ .shot",
    )
    context = {"exclude": [[each] for each in alike]}
    for rules in ("", ", runOnly: ['color-contrast']"):
        options = f"{{resultTypes: ['violations']{rules}}}"
        found = page.evaluate(f"context => axe.run(context, {options})", context)
        barriers = [
            (each["id"], each["nodes"][0]["html"][:200])
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
        ]
        assert barriers == []
        page.click("#theme")


def test_nothing_was_fetched_and_nothing_went_wrong(opened: Shown) -> None:
    """After all of the above."""
    assert {url.partition(":")[0] for url in opened.requests} <= {"file", "data"}
    assert opened.complaints == []


def test_pages_of_odd_reports_complain_of_nothing(browser: Any, tmp_path: Path) -> None:
    """Nothing at all, and one evaluation without attacks on two images of one class."""
    alone = made.run(0, attacks=("natural",), classes=1, images=2, trained=1)
    for record in (made.report([], groups=[]), made.report([alone])):
        path = tmp_path / f"{len(record.runs)}.html"
        write_report(record, path)
        shown = Shown(browser.new_page(), path)
        shown.page.click("#theme")
        assert len(shown.texts("main section")) == 11
        assert len(shown.texts("#gallery-cards > li")) == 2 * len(record.runs)
        assert shown.complaints == []
        shown.page.close()
