"""What all commands share: help, version, errors, and the real program in a process of its own."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tnkit as tk
from tnkit import api, solvers
from tnkit.array_files import write_array

COMMANDS = ("decompose", "info", "reconstruct", "complete", "analyze", "compress", "bench")


def test_help_reads_well(run) -> None:
    for text in (run("--help").stdout, run("-h").stdout):
        assert all(command in text for command in COMMANDS)
        assert "tnkit decompose cube.npy --eps 0.05" in text
    assert "Usage: tnkit" in run(code=2).output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(run, command: str) -> None:
    text = run(command, "--help").stdout
    assert f"$ tnkit {command}" in text
    assert "--json" in text


def test_version(run) -> None:
    assert run("--version").stdout.strip() == f"tnkit {tk.__version__}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["decompose", "missing.npy", "--eps", "0.1"], "missing.npy: no such file"),
        (["info", "missing.npy"], "missing.npy: no such file"),
        (["reconstruct", "missing.safetensors"], "missing.safetensors: no such file"),
        (["complete", "missing.npy"], "missing.npy: no such file"),
        (["decompose", "text.npy", "--eps", "0.1"], "text.npy"),
        (["info", "half.safetensors"], "cut short"),
        (["reconstruct", "half.safetensors"], "cut short"),
        (["reconstruct", "plain.safetensors"], "not a tnkit format"),
        (["decompose", "cube.npy"], "eps="),
        (["decompose", "cube.npy", "-f", "tuker", "--eps", "0.1"], "Did you mean 'tucker'?"),
        (["decompose", "cube.npy", "-f", "tt", "--eps", "-0.1"], "eps=-0.1"),
        (["decompose", "cube.npy", "-f", "tt", "--rank", "0"], "rank"),
        (["decompose", "cube.npy", "-f", "tt", "--rank", "x"], "--rank 'x'"),
        (["decompose", "cube.npy", "-f", "tt", "--budget", "many"], "--budget 'many'"),
        (["decompose", "cube.npy", "-f", "tt", "--budget", "3"], "budget"),
        (["decompose", "cube.npy", "-f", "ia,aj->ij", "--rank", "2"], "2 open labels"),
        (["decompose", "nan.npy", "-f", "tt", "--rank", "2"], "NaN"),
        (["decompose", "cube.npy", "--eps", "0.1", "-o", "x.npy"], ".safetensors"),
        (["decompose", "cube.npy", "--eps", "0.1", "-o", "no/such/x.safetensors"], "Make it first"),
        (["decompose", "cube.npy", "--eps", "0.1", "--report", "x.pdf"], ".html"),
        (["decompose", "cube.npy", "--eps", "0.1", "--dtype", "int8"], "--dtype"),
        (["decompose", ".", "--eps", "0.1"], "is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line_and_leaves_nothing(
    run, cube: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "text.npy").write_text("no array at all")
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan], [2.0, 3.0]]))
    run("decompose", cube, "-f", "tt", "--rank", "2", "-o", "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(good[: len(good) // 2])
    write_array(tmp_path / "plain.safetensors", np.ones((2, 3)))
    before = sorted(p.name for p in tmp_path.iterdir())
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_stopped_from_the_keyboard(run, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tnkit.api.decompose", stopped)
    assert "nothing was written" in run("decompose", cube, "-f", "tt", "--rank", "2", code=130).stderr
    assert [p.name for p in tmp_path.iterdir()] == ["cube.npy"]


def test_the_best_so_far_is_written(run, cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decompose = api.decompose

    def stopped(*args: object, **kwargs: object) -> object:
        return dataclasses.replace(decompose(*args, **kwargs), status=solvers.INTERRUPTED)  # type: ignore[arg-type]

    monkeypatch.setattr("tnkit.api.decompose", stopped)
    assert "warning: interrupted" in run("decompose", cube, "-f", "tt", "--rank", "2", code=130).stderr
    assert tk.load("cube.tn.safetensors").ranks == (2, 2)


def test_the_program_itself(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "cube.npy", x)

    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tnkit", *arguments]
        environment = {"PYTHONPATH": str(Path(tk.__file__).parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = program("decompose", "cube.npy", "-f", "tt", "--eps", "0.01", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rel_error"] <= 0.01
    assert done.stderr == ""
    wrong = program("decompose", "nothing.npy", "--eps", "0.01")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr
    assert "\x1b" not in wrong.stderr
