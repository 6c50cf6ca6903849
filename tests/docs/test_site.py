"""The site builds without a warning, fetches nothing from another host, and its links lead somewhere."""

import functools
import http.server
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium
from conftest import PROJECT
from local_server import serving
from site_pages import Page, hook


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_nothing_is_fetched_from_another_host(site, pages):
    assert len(pages) > 80
    assert not {(path.name, url) for path, page in pages.items() for url in page.fetched if urlsplit(url).netloc}
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_links_lead_to_a_page_and_a_place_of_the_site(site, pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith(("#__", "/")) or path.name == "404.html":
                continue
            target = Path(posixpath.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                lost.append(f"{path.relative_to(site)} -> {link}")
    assert not lost


def test_formulas_are_mathml_and_tables_are_there(site):
    page = (site / "techniques" / "wanda.html").read_text(encoding="utf-8")
    assert "<math" in page and "arithmatex" not in page and r"\frac" not in page
    assert "<code>relative_to</code>" in page and "arxiv.org/abs/2306.11695" in page
    for path in site.rglob("*.html"):
        assert "<merror" not in path.read_text(encoding="utf-8"), path


def test_a_formula_becomes_mathml():
    formulas = hook("formulas")
    content = formulas.on_page_content(r'<p><span class="arithmatex">\(a &lt; b\)</span></p>', None, None, None)
    assert content.startswith("<p><math") and "&#x0003C;" in content and "arithmatex" not in content


@pytest.mark.slow
def test_a_browser_asks_no_other_host(site):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    asked, errors = [], []
    with serving(handler) as root, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in ("index", "techniques/sparsegpt", "metrics", "gallery", "api/techniques", "export", "CONTRIBUTING"):
            page.goto(f"{root}/{name}.html")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.goto(f"{root}/index.html?q=wanda")
        page.locator(".md-search-result__item").first.wait_for()
    assert not errors
    assert {url for url in asked if not url.startswith((root, "data:", "blob:"))} == set()
