"""The import order that `fwproxy/__init__.py` draws, read from the sources.

A module imports only from rows above its own, or from its own row. Imports for type checkers alone
are exempt: contracts at the top name the types of objects that live below. Filters see only the
package `fwproxy` itself and the rows down to `kit/`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fwproxy"
FILTERS = ROOT / "filters" / "fwproxy_filters"


def read_rows() -> list[list[str]]:
    """Return the rows of the docstring, top first: module names, and packages without the slash."""
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    drawing = text.partition("::\n")[2]
    return [[name.rstrip("/") for name in line.split()] for line in drawing.splitlines() if line]


ROWS = read_rows()
ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def runtime_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that are carried out, those inside functions included."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and is_type_checking(node.test):
        children = node.orelse
    for child in children:
        yield from runtime_imports(child)


def imported_names(path: Path, text: str | None = None) -> Iterator[str]:
    """Yield the dotted names that a module imports from, absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text)
    for node in runtime_imports(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        assert node.level == 0, f"{path}: relative import in line {node.lineno}"
        assert node.module is not None
        if node.module == "fwproxy":
            yield from (f"fwproxy.{alias.name}" for alias in node.names)
        else:
            yield node.module


def room_of(dotted: str) -> str | None:
    """Return the name that the drawing has for `fwproxy.NAME...`; None for anything else."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fwproxy" and len(parts) > 1 else None


def wrong_imports(room: str, path: Path, text: str | None = None) -> list[str]:
    found = []
    for dotted in imported_names(path, text):
        target = room_of(dotted)
        if dotted == "fwproxy":
            found.append("fwproxy itself")
        elif target in ROW_OF and ROW_OF[target] > ROW_OF[room]:
            found.append(f"{dotted} (row {ROW_OF[target] + 1} from row {ROW_OF[room] + 1})")
        elif target is not None and target not in ROW_OF:
            found.append(f"{dotted}, which no row lists")
    return found


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room_of_path(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_drawing_has_every_module_and_no_other() -> None:
    rooms = {room_of_path(path) for path in modules()}
    assert rooms == set(ROW_OF)
    assert len(ROW_OF) == sum(len(row) for row in ROWS), "a module stands in two rows"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_rows_above(path: Path) -> None:
    assert wrong_imports(room_of_path(path), path) == []


@pytest.mark.parametrize(
    "path", sorted(FILTERS.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_filters_import_only_the_public_names(path: Path) -> None:
    assert wrong_filter_imports(path) == []


def wrong_filter_imports(path: Path, text: str | None = None) -> list[str]:
    public = set(exported()) | {name for row in ROWS[: ROW_OF["kit"] + 1] for name in row}
    return [name for name in imported_names(path, text) if (room_of(name) or "kit") not in public]


def exported() -> list[str]:
    """Return `__all__` of the package, read without importing it."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise AssertionError("fwproxy/__init__.py has no __all__")


@pytest.mark.parametrize(
    ("room", "text", "wrong"),
    [
        ("errors", "from fwproxy.address import Endpoint", 1),
        ("errors", "def late():\n    import fwproxy.session", 1),
        ("errors", "try:\n    from fwproxy import cli\nexcept ImportError:\n    pass", 1),
        ("address", "from fwproxy.nowhere import x", 1),
        ("cli", "import fwproxy", 1),
        ("address", "from fwproxy.errors import ConfigError\nimport socket", 0),
        ("session", "from fwproxy.session.session import Session", 0),
        ("filter", "if TYPE_CHECKING:\n    from fwproxy.session.session import Session", 0),
        ("filter", "if TYPE_CHECKING:\n    pass\nelse:\n    import fwproxy.session", 1),
    ],
)
def test_the_check_itself(room: str, text: str, wrong: int) -> None:
    assert len(wrong_imports(room, Path("example.py"), text)) == wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from fwproxy import Filter, Session\nfrom fwproxy.kit.lines import LineReader", 0),
        ("from fwproxy.address import Endpoint\nfrom fwproxy_filters.ftp import verbs", 0),
        ("from fwproxy.session.session import Session", 1),
        ("from fwproxy import datapath", 1),
        ("import fwproxy.datapath.splice", 1),
    ],
)
def test_the_check_of_filters_itself(text: str, wrong: int) -> None:
    assert len(wrong_filter_imports(Path("example.py"), text)) == wrong


def dependencies() -> dict[str, set[str]]:
    """Return the modules, each with those that it imports at run time."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    found = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = set()
        for node in runtime_imports(tree):
            if isinstance(node, ast.Import):
                imports |= {alias.name for alias in node.names}
            elif node.module is not None:
                imports.add(node.module)
                imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name.removesuffix(".__init__")] = imports
    return {name: imports & found.keys() for name, imports in found.items()}


def test_no_module_imports_one_that_imports_it() -> None:
    TopologicalSorter(dependencies()).prepare()  # raises CycleError with the circle


def test_the_check_of_circles_itself() -> None:
    circle = dependencies() | {"fwproxy.errors": {"fwproxy.firewall"}}
    with pytest.raises(CycleError):
        TopologicalSorter(circle).prepare()
