"""The order of rooms: a room imports only from rooms below it, and no two modules import each other, even late."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import PROJECT

PACKAGE = PROJECT / "src" / "slimsweep"
TOP = "__init__ and api"
GROUND = "errors, paths, checks, hints, atomic and progress"
ROOMS = (
    TOP,
    *(
        "cli",
        "demo",
        "pipeline",
        "reports",
        "export",
        "figures",
        "records",
        "techniques",
        "evaluation",
        "blockwise",
        "data",
    ),
    *("models", "linear", "numerics"),
    GROUND,
)
"""From the door down."""
FILES_OUTSIDE = {"__init__": TOP, "api": TOP} | dict.fromkeys(
    ("errors", "paths", "checks", "hints", "atomic", "progress"), GROUND
)
DOCSTRING_LINES = 3


@dataclass(frozen=True)
class Import:
    """One import statement's module, wherever it stands: in a function or below TYPE_CHECKING too."""

    file: Path
    line: int
    source: str
    """The importing module, dotted; a package has the name of its folder."""
    target: str


def module_name(file: Path, package: Path) -> str:
    parts = (package.name, *file.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path) -> list[Import]:
    """What every file of a package imports of the same package."""
    files = sorted(package.rglob("*.py"))
    modules = {module_name(file, package) for file in files}
    found = []
    for file in files:
        source = module_name(file, package)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                folder = source.split(".") if file.stem == "__init__" else source.split(".")[:-1]
                start = folder[: len(folder) - node.level + 1] if node.level else []
                base = ".".join([*start, *([node.module] if node.module else [])])
                full = [f"{base}.{alias.name}" for alias in node.names]
                targets = [name if name in modules else base for name in full]
            inside = [name for name in targets if name.split(".")[0] == package.name]
            found += [Import(file, node.lineno, source, target) for target in dict.fromkeys(inside)]
    return found


def room_of(module: str) -> str:
    """The room of a dotted module; that of a new file or folder which is in none is its own name."""
    first = (module.split(".")[1:] or ["__init__"])[0]
    return FILES_OUTSIDE.get(first, first)


def misplaced(package: Path) -> list[str]:
    """Files and folders that are in no room."""
    names = {path.stem if path.suffix else path.name for path in package.iterdir() if is_code(path)}
    return [f"{name} is in no room: move it below one of {', '.join(ROOMS[1:-1])}" for name in sorted(names - known())]


def known() -> set[str]:
    return {*ROOMS, *FILES_OUTSIDE}


def is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))


def upward(package: Path) -> list[str]:
    """Imports that run from a room to one above it."""
    height = {room: place for place, room in enumerate(reversed(ROOMS))}
    return [
        f"{found.file.relative_to(package.parent)}:{found.line}: {room_of(found.source)} imports {found.target}, which "
        f"lies above it in {room_of(found.target)}"
        for found in imports(package)
        if height.get(room_of(found.target), 0) > height.get(room_of(found.source), len(ROOMS))
    ]


def cycles(package: Path) -> list[str]:
    """Groups of modules that reach each other by imports, each with the lines that tie it."""
    found = imports(package)
    edges: dict[str, set[str]] = {}
    for one in found:
        edges.setdefault(one.source, set()).add(one.target)
    reach = {module: reachable(module, edges) for module in edges}
    groups = {
        frozenset({module, *(other for other in reach[module] if module in reach.get(other, ()))})
        for module in edges
        if module in reach[module]
    }
    return [
        f"{', '.join(sorted(group))} import each other: "
        + ", ".join(
            f"{one.file.relative_to(package.parent)}:{one.line} ({one.target})"
            for one in found
            if one.source in group and one.target in group
        )
        for group in sorted(groups, key=sorted)
    ]


def reachable(module: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(edges.get(module, ()))
    while todo:
        other = todo.pop()
        if other not in seen:
            seen.add(other)
            todo += edges.get(other, ())
    return seen


def undescribed(package: Path) -> list[str]:
    """Folders without a short docstring that says what belongs in them."""
    faults = []
    for folder in sorted({file.parent for file in package.rglob("*.py")}):
        file = folder / "__init__.py"
        text = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "") if file.is_file() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        if not 1 <= len(lines) <= DOCSTRING_LINES:
            faults.append(
                f"{folder.relative_to(package.parent)}/__init__.py has a docstring of {len(lines)} lines: say in 1 to "
                f"{DOCSTRING_LINES} what belongs there and what does not"
            )
    return faults


CHECKS = {"misplaced": misplaced, "upward": upward, "cycles": cycles, "undescribed": undescribed}


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_the_order_of_rooms(check):
    faults = CHECKS[check](PACKAGE)
    assert not faults, "\n" + "\n".join(faults)


ROOM = '"""A room."""\n'
TREE = {"__init__": ROOM, "errors": "", "cli/__init__": ROOM, "cli/app": "from small.models import source\n"}
TREE |= {"models/__init__": ROOM, "models/source": "from small.errors import Fault\n", "numerics/__init__": ROOM}
TREE |= {"numerics/masks": "import torch\n"}


@pytest.fixture
def small(tmp_path):
    """Write a package of three rooms, some of its files changed; returns its folder."""

    def written(**changed: str) -> Path:
        for name, text in (TREE | {name.replace("__in__", "/"): text for name, text in changed.items()}).items():
            file = tmp_path / "small" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / "small"

    return written


def test_a_package_in_order_has_no_faults(small):
    assert [fault for check in CHECKS.values() for fault in check(small())] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import torch\nfrom small.models.source import read\n", 2),
        ("from small.models import source\n", 1),
        ("import small.models.source\n", 1),
        ("from ..models import source\n", 1),
        ("def late():\n    from small.models import source\n", 2),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from small.models.source import Source\n", 3),
    ],
    ids=["name", "module", "plain", "relative", "in a function", "for types alone"],
)
def test_an_import_from_a_room_above_is_found_wherever_it_stands(small, text, line):
    (fault,) = upward(small(numerics__in__masks=text))
    assert fault.startswith(f"small/numerics/masks.py:{line}: numerics imports small.models.source, which lies above")
    assert fault.endswith("in models")


def test_nothing_below_imports_the_package_itself(small):
    (fault,) = upward(small(models__in__source="import small\n"))
    assert fault == f"small/models/source.py:1: models imports small, which lies above it in {TOP}"


def test_modules_that_import_each_other_are_found_within_a_room_too(small):
    folder = small(
        numerics__in__masks="from small.numerics import ranks\n",
        numerics__in__ranks="def late():\n    from small.numerics.masks import keep\n",
    )
    (fault,) = cycles(folder)
    assert fault == (
        "small.numerics.masks, small.numerics.ranks import each other: "
        "small/numerics/masks.py:1 (small.numerics.ranks), small/numerics/ranks.py:2 (small.numerics.masks)"
    )


def test_a_file_or_folder_outside_the_rooms_is_found(small):
    faults = misplaced(small(masks="", misc__in__tools=""))
    assert [fault.split(":")[0] for fault in faults] == ["masks is in no room", "misc is in no room"]


@pytest.mark.parametrize("text", ["", '"""' + "One line.\n" * 4 + '"""\n'], ids=["none", "long"])
def test_a_folder_says_in_few_lines_what_belongs_in_it(small, text):
    (fault,) = undescribed(small(numerics__in____init__=text))
    assert fault.startswith("small/numerics/__init__.py has a docstring of")
