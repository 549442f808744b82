"""What an import of tnkit costs and pulls in, and that every module imports downwards and at its top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tnkit"
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))
OPTIONAL = ("tensorly", "quimb", "cotengra", "transformers", "peft", "sklearn", "skimage")
ARRAYS = ("xarray", "dask", "zarr", "h5py")
HEAVY = (*OPTIONAL, *ARRAYS, "matplotlib", "hypothesis", "typer", "pytest")


def in_fresh_python(code: str) -> str:
    """What `code` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_layers() -> None:
    command = [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_adds_under_half_a_second_to_torch() -> None:
    """Processor time, and the best of three: what other processes do at the same time does not count."""
    code = "import time, torch; start = time.process_time(); import tnkit; print(time.process_time() - start)"
    assert min(float(in_fresh_python(code)) for _ in range(3)) < 0.5


def test_plain_import_brings_in_no_optional_package() -> None:
    code = "import sys, torch; before = set(sys.modules); import tnkit; print(*set(sys.modules) - before)"
    added = {name.partition(".")[0] for name in in_fresh_python(code).split()}
    assert "tnkit" in added
    assert added.isdisjoint(HEAVY)


def test_import_leaves_global_state_alone() -> None:
    code = """
import warnings, numpy as np, torch

def state():
    return (
        torch.initial_seed(), torch.get_rng_state().sum().item(), torch.get_default_dtype(), torch.get_default_device(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        str(np.random.get_state()), np.geterr(), list(warnings.filters),
    )

before = state()
import tnkit
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    assert in_fresh_python(code).strip() == "[]"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("tnkit/interop/")])
def test_no_import_inside_a_function(module: str) -> None:
    inside = [
        f"{module}:{node.lineno}"
        for function in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert inside == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("tnkit/interop/")])
def test_interop_imports_inside_functions_are_of_other_packages(module: str) -> None:
    inside = [
        f"{module}:{node.lineno}"
        for function in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if (isinstance(node, ast.Import) and any(name.name.split(".")[0] == "tnkit" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "tnkit"))
    ]
    assert inside == []


@pytest.mark.parametrize("module", MODULES)
def test_no_star_import_and_none_of_the_whole_package(module: str) -> None:
    """`import tnkit` inside tnkit would go round the layers."""
    seen = []
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
            seen.append(f"{module}:{node.lineno} star import")
        if isinstance(node, ast.Import) and any(name.name == "tnkit" for name in node.names):
            seen.append(f"{module}:{node.lineno} import tnkit")
        if isinstance(node, ast.ImportFrom) and node.module == "tnkit" and module != "tnkit/__init__.py":
            outside = [name.name for name in node.names if not is_submodule(name.name)]
            seen += [f"{module}:{node.lineno} from tnkit import {name}" for name in outside]
    assert seen == []


def is_submodule(name: str) -> bool:
    return (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [f.relative_to(ROOT).as_posix() for f in sorted(folders) if not (f / "__init__.py").exists()] == []
