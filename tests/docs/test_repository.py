"""Links of pages read the same on a code host and on the site."""

import re

import pytest
from conftest import PROJECT
from site_pages import hook

repository = hook("repository")
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(?:#([^)\s]+))?\)")
PAGES = [
    *sorted((PROJECT / "docs").rglob("*.md")),
    PROJECT / "README.md",
    *(PROJECT / path for path in repository.OUTSIDE),
]


def linked(path):
    """Relative links of a page outside code, as (target, fragment)."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return LINK.findall(text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_code_host_finds_what_a_page_links(path):
    absent = [target for target, _ in linked(path) if not (path.parent / target).exists()]
    assert not absent


def test_links_are_written_for_the_site():
    def on_site(text, source):
        return repository._on_site(text, source)

    assert on_site("[x](../CONTRIBUTING.md#rooms)", "speed.md") == "[x](CONTRIBUTING.md#rooms)"
    assert on_site("[x](../../CONTRIBUTING.md)", "recipes/gpu.md") == "[x](../CONTRIBUTING.md)"
    assert on_site("[x](docs/chains.md)", "CONTRIBUTING.md") == "[x](chains.md)"
    assert on_site("[x](../docs/pairs.md)", "benchmarks/README.md") == "[x](../pairs.md)"
    assert on_site("[x](https://example.org/a.md) [y](#here)", "a.md") == "[x](https://example.org/a.md) [y](#here)"
