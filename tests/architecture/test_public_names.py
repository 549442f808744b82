"""`__all__` of each package and module: there, right, sorted, and complete."""

import ast
import importlib
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tnkit"


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(
    dotted(path) for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and not path.name.startswith("_test")
)
PACKAGES = sorted(dotted(path) for path in PACKAGE.rglob("__init__.py"))


def sort_key(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    """Constants, classes, the rest; digits by value (the order of ruff's RUF022)."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return kind, [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_right_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    assert public is not None, f"{name} has no __all__"
    assert len(set(public)) == len(public)
    assert [n for n in public if not hasattr(module, n)] == []
    dunder = [n for n in public if n.startswith("__")]
    plain = [n for n in public if not n.startswith("__")]
    assert [n for n in plain if n.startswith("_")] == []
    assert set(dunder) <= {"__version__"}
    assert plain == sorted(plain, key=sort_key)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_what_it_imports(name: str) -> None:
    """What `__init__` imports from its own modules is public, and what is public is imported or a submodule."""
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tnkit")
        for alias in node.names
    }
    visible = {n for n in imported if not n.startswith("_") and not isinstance(getattr(module, n), types.ModuleType)}
    assert visible - set(module.__all__) == set()


@pytest.mark.parametrize("name", MODULES)
def test_public_things_have_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    things = [getattr(module, n) for n in module.__all__]
    own = [t for t in things if isinstance(t, type | types.FunctionType) and t.__module__ == name]
    assert [t.__qualname__ for t in own if not (t.__doc__ or "").strip()] == []
