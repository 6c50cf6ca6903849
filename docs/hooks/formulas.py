r"""Hook of MkDocs: formulas become MathML while the site is built, so that a reader's browser loads no script for them.

Pages write `$...$` and `$$...$$`, which code hosts show too. The extension arithmatex marks them as `\(...\)` and
`\[...\]`.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put MathML where a page has formulas."""
    return FORMULA.sub(_math, content)


def _math(formula: re.Match[str]) -> str:
    """One formula as MathML, in a block of its own where it was written so."""
    is_block = formula[1] == "div"
    math = convert(html.unescape(formula[2]).strip(), display="block" if is_block else "inline")
    return f'<div class="formula" tabindex="0">{math}</div>' if is_block else math
