"""Loads the hooks of the documentation site, and reads built pages."""

import importlib.util
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

from conftest import PROJECT

FETCHED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "audio": "src",
    "video": "src",
}
"""Attributes whose address a browser fetches while it shows a page, by tag."""


def hook(name: str) -> ModuleType:
    """A hook of docs/hooks, imported from its file."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", PROJECT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Page(HTMLParser):
    """A built page: addresses that it fetches, links, and the ids that links may name."""

    def __init__(self, path: Path):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if identity := values.get("id"):
            self.ids.add(identity)
        if tag == "a" and (target := values.get("href")):
            self.links.append(target)
        if tag in FETCHED and (target := values.get(FETCHED[tag])):
            self.fetched.append(target)
