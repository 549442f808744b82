"""A small array, and the command line run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tnkit.cli import app

Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `tnkit …` in a folder of its own; `code` is what it must exit with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def go(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="tnkit")
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    return go


@pytest.fixture
def run_json(run: Run) -> Run:
    """The same, with --json: the values."""

    def go(*arguments: object, code: int = 0) -> Any:
        result = run(*arguments, "--json", code=code)
        assert len(result.stdout.strip().splitlines()) == 1
        return json.loads(result.stdout)

    return go


@pytest.fixture
def x() -> np.ndarray:
    """(8, 9, 10), smooth."""
    i, j, k = np.ogrid[:8, :9, :10]
    return 1.0 / (1 + i + j + k)


@pytest.fixture
def cube(tmp_path: Path, x: np.ndarray) -> Path:
    np.save(tmp_path / "cube.npy", x)
    return Path("cube.npy")
