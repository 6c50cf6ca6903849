"""Hook of MkDocs: pages that lie outside docs/, and links that read the same on a code host and on the site.

A code host resolves `../CONTRIBUTING.md` in the repository. The site has docs/ as its root, so each link is resolved in
the repository first, and then written relative to the page on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PROJECT = Path(__file__).resolve().parents[2]
OUTSIDE = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"),
    *("benchmarks/RESULTS.md", "benchmarks/RESULTS_FP32.md", "benchmarks/RESULTS_GPU.md"),
)
"""Pages of the site that lie outside docs/, by their path in the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")
"""Target of a relative link of Markdown, without its fragment."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(PROJECT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Write every relative link so that it holds on the site; code stays as it is."""
    pieces = re.split(r"(^```.*?^```|`[^`\n]*`)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(piece if piece.startswith("`") else _on_site(piece, page.file.src_uri) for piece in pieces)


def _on_site(text: str, source: str) -> str:
    """Text of a page with links that hold on the site."""
    folder = posixpath.dirname(source if source in OUTSIDE else f"docs/{source}")

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        path = path if path in OUTSIDE else path.removeprefix("docs/")
        return posixpath.relpath(path, posixpath.dirname(source) or ".")

    return LINK.sub(target, text)
