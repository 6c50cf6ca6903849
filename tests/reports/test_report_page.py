"""The page of a report: its parts as text, and in Debian's Chromium."""

import json
import re
from html.parser import HTMLParser

import pytest
from browser import chromium
from made_up import chain, curve, record, sweep

from slimsweep.records.store import Store
from slimsweep.reports.report import gather
from slimsweep.reports.report_page import SYMBOLS, page

pytest.importorskip("plotly", reason="plotly is not installed")
EVIL = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>"


class Parts(HTMLParser):
    """Tags, texts and scripts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.words += data

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "outputs")


def made(store):
    records = [record(), *curve("wanda"), *curve("magnitude"), chain("rtn", bits=4.0, perplexity_wikitext2=11.0)]
    records += [record("wanda", 0.95, perplexity_wikitext2=5000.0, device=EVIL), record(EVIL, 0.5, 1)]
    for one in sweep(store, "mine", records):
        names = [f"model.layers.{block}.{part}" for block in range(3) for part in ("up_proj", "down_proj")]
        layers = [{"name": name, "weights": 4, "zeros": 1, "error": 0.1 * (1 + 9 * ("2." in name))} for name in names]
        store.write(one, [{"stage": stage["name"], "layers": layers} for stage in one["stages"]])
    return page(gather(store, ["mine"], with_figures=False))


def test_a_page_is_whole_by_itself_and_runs_no_script_but_its_own(store):
    text = made(store)
    parts = Parts(text)
    fetched = [value for _, attrs in parts.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in fetched)
    policy = next(attrs["content"] for tag, attrs in parts.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2 and "unsafe-eval" not in policy
    assert len(parts.scripts) == 3 and "onerror" not in {name for _, attrs in parts.tags for name in attrs}
    assert EVIL in parts.words  # as text


def test_the_data_of_a_page_is_json_that_ends_no_script(store):
    data = next(script for script in Parts(made(store)).scripts if script.startswith("{"))
    assert "<" not in data
    loaded = json.loads(data)
    assert set(loaded["looks"]) >= {"magnitude", "wanda", "rtn"} and loaded["charts"][0]["points"]
    assert {look["symbol"] for look in loaded["looks"].values()} <= set(SYMBOLS.values())


def test_the_table_needs_no_script(store):
    parts = Parts(made(store))
    rows = [attrs["data-key"] for tag, attrs in parts.tags if tag == "tr" and "data-key" in attrs]
    assert len(rows) == 10 and {f"job-{key}" for key in rows} <= {attrs.get("id") for _, attrs in parts.tags}
    assert "First bad block: model.layers.2" in parts.words and "This page works without JavaScript" in parts.words


def test_equal_records_give_equal_bytes(store):
    assert made(store) == made(store)


@pytest.fixture
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def show(browser, store, tmp_path):
    """Opens the page in a window; gives it with the list of what went wrong or left for the network."""
    file = tmp_path / "report.html"
    file.write_text(made(store), encoding="utf-8")

    def opened(**window):
        window = browser.new_context(**window).new_page()
        faults = []
        window.on("console", lambda message: faults.append(message.text))
        window.on("pageerror", lambda error: faults.append(str(error)))
        window.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else faults.append(request.url),
        )
        window.goto(file.as_uri())
        return window, faults

    return opened


def cells(window, place):
    return window.locator(f"#records tbody tr:visible td:nth-child({place})").all_inner_texts()


@pytest.mark.slow
def test_in_a_browser_the_table_sorts_and_charts_hover_and_filter(show):
    window, faults = show(viewport={"width": 1280, "height": 900})
    headings = [re.sub(r"\W+$", "", text) for text in window.locator("#records th").all_inner_texts()]
    place = headings.index("perplexity wikitext2") + 1
    button = window.locator(f"#records th:nth-child({place}) button")
    button.click()
    numbers = [float(text.split()[0]) for text in cells(window, place)]
    assert numbers == sorted(numbers) and len(numbers) == 10
    button.click()
    assert [float(text.split()[0]) for text in cells(window, place)] == numbers[::-1]
    assert window.locator(f"#records th:nth-child({place})").get_attribute("aria-sort") == "descending"

    points = window.locator("#ratio .scatterlayer .point")
    assert points.count() == 8  # dense and rtn have no ratio
    points.first.hover(force=True)
    window.wait_for_selector("#ratio .hoverlayer .hovertext")
    label = window.locator("#ratio .hoverlayer").text_content()
    assert "perplexity wikitext2: " in label
    points.first.click(force=True)
    window.wait_for_selector("#all:visible")
    technique = headings.index("technique") + 1
    assert len(set(cells(window, technique))) == 1 and 1 < len(cells(window, technique)) < 10
    assert window.locator("#records tr.chosen").count() == 1
    window.locator("#all").click()
    assert len(cells(window, 1)) == 10
    window.locator("#filter").fill("wanda 0.5")
    assert len(cells(window, 1)) == 1
    window.locator("#quality").select_option("1")
    window.locator("#cost").select_option("1")
    assert faults == []


@pytest.mark.slow
def test_in_a_browser_names_do_not_run_and_links_open_their_jobs(show):
    window, faults = show(viewport={"width": 1280, "height": 900})
    key = window.locator("#records tbody tr").last.get_attribute("data-key")
    window.locator("#records tbody a").last.click()
    assert window.locator(f"#job-{key}").is_visible()
    for point in window.locator("#pareto .scatterlayer .point").all():
        point.hover(force=True)
    assert window.evaluate("window.ran") is None and faults == []
    assert window.evaluate("document.querySelector('main img') === null")


@pytest.mark.slow
def test_in_a_browser_it_fits_a_phone_and_follows_the_scheme(show):
    grounds = set()
    for scheme in ("light", "dark"):
        window, faults = show(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert window.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        grounds.add(window.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert window.locator("#pareto .main-svg").count() and faults == []
    assert len(grounds) == 2


@pytest.mark.slow
def test_in_a_browser_without_scripts_the_table_is_there(show):
    window, _ = show(java_script_enabled=False)
    assert len(cells(window, 1)) == 10
    assert window.locator("noscript").inner_text().startswith("This page works without JavaScript")
    assert not window.locator("#charts").is_visible() and not window.locator("#filter").is_visible()
