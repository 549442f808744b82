import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import tnkit as tk


def test_by_error_and_back(run, run_json, cube: Path, x: np.ndarray) -> None:
    values = run_json("decompose", cube, "--format", "tt", "--eps", "0.01")
    assert values["rel_error"] <= 0.01
    assert values["output"] == "cube.tn.safetensors"
    assert values["ok"] is True
    back = run_json("reconstruct", "cube.tn.safetensors", "--against", cube)
    assert back["rel_error"] == pytest.approx(values["rel_error"], rel=1e-6)
    dense = np.load("cube.tn.dense.npy")
    assert np.linalg.norm(dense - x) <= 0.01 * np.linalg.norm(x)


def test_says_what_came_out(run, cube: Path) -> None:
    text = run("decompose", cube, "-f", "tucker", "-r", "3,3,3", "-o", "t.safetensors").stdout
    assert "Tucker(shape=(8, 9, 10), ranks=(3, 3, 3)" in text
    assert "relative error" in text
    assert "written to t.safetensors" in text


@pytest.mark.parametrize(
    ("rank", "ranks"), [("2", (2, 2)), ("2,3", (2, 3)), ("r1=2,r2=4", (2, 4)), ("1,2,3,1", (2, 3))]
)
def test_ranks_as_they_are_written(run, cube: Path, rank: str, ranks: tuple[int, ...]) -> None:
    run("decompose", cube, "-f", "tt", "--rank", rank, "-o", "t.safetensors")
    assert tk.load("t.safetensors").ranks == ranks


@pytest.mark.parametrize("budget", ["100", "14%", "0.14", "800B", "0.8kB"])
def test_budgets_as_they_are_written(run, cube: Path, budget: str) -> None:
    run("decompose", cube, "-f", "tt", "--budget", budget, "-o", "t.safetensors")
    assert 27 <= tk.load("t.safetensors").n_params <= 100


def test_equation(run, cube: Path) -> None:
    run("decompose", cube, "-f", "ia,ajb,bk->ijk", "--rank", "a=2,b=2", "-o", "t.safetensors")
    assert tk.load("t.safetensors").ranks == (2, 2)


def test_auto(run_json, cube: Path) -> None:
    assert run_json("decompose", cube, "--eps", "0.01")["rel_error"] <= 0.01


def test_explain_writes_nothing(run_json, cube: Path, tmp_path: Path) -> None:
    assert run_json("decompose", cube, "-f", "tt", "--eps", "0.1", "--explain")["method"]
    assert [p.name for p in tmp_path.iterdir()] == ["cube.npy"]


def test_dtype(run, cube: Path) -> None:
    run("decompose", cube, "-f", "tt", "--rank", "2", "--dtype", "float32", "-o", "t.safetensors")
    assert str(tk.load("t.safetensors").dtype) == "torch.float32"


def test_array_kinds(run, x: np.ndarray) -> None:
    np.savez("x.npz", a=x, b=x[0])
    save_file({"only": x}, "x.safetensors")
    run("decompose", "x.npz", "--name", "b", "-f", "lowrank", "--rank", "2", "-o", "b.safetensors")
    assert tk.load("b.safetensors").shape == (9, 10)
    run("decompose", "x.safetensors", "-f", "tt", "--rank", "2", "-o", "c.safetensors")
    assert tk.load("c.safetensors").shape == (8, 9, 10)
    assert "'a', 'b'" in run("decompose", "x.npz", "-f", "tt", "--rank", "2", code=2).stderr


def test_image_there_and_back(run) -> None:
    grey = (np.add.outer(np.arange(20), np.arange(30)) * 5).astype(np.uint8)
    Image.fromarray(grey).save("grey.png")
    run("decompose", "grey.png", "-f", "lowrank", "--rank", "2")
    run("reconstruct", "grey.tn.safetensors", "-o", "again.png")
    assert np.array_equal(np.asarray(Image.open("again.png")), grey)


def test_a_part_without_the_whole(run, cube: Path, x: np.ndarray) -> None:
    run("decompose", cube, "-f", "tt", "--eps", "1e-8", "-o", "t.safetensors")
    run("reconstruct", "t.safetensors", "--slice", ":, 2:6, 7", "-o", "part.npy")
    assert np.allclose(np.load("part.npy"), x[:, 2:6, 7])
    run("reconstruct", "t.safetensors", "--slice", "1,2,3", "-o", "entry.npy")
    assert np.load("entry.npy") == pytest.approx(x[1, 2, 3])
    assert "--slice" in run("reconstruct", "t.safetensors", "--slice", "a", "-o", "p.npy", code=2).stderr


def test_reports(run, cube: Path) -> None:
    run("decompose", cube, "-f", "tt", "--rank", "2", "-o", "a.safetensors", "--report", "a.html")
    page = Path("a.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "relative error" in page
    run("decompose", cube, "-f", "tt", "--rank", "2", "-o", "b.safetensors", "--report", "b.json")
    assert json.loads(Path("b.json").read_text())["format"] == "tt"


def test_an_unmet_eps_is_an_exit_code(run, cube: Path) -> None:
    result = run("decompose", cube, "-f", "tt", "--eps", "1e-6", "--rank", "1", code=3)
    assert "warning: eps_not_reached" in result.stderr
    assert Path("cube.tn.safetensors").exists()


def test_nothing_is_overwritten_unasked(run, cube: Path) -> None:
    Path("cube.tn.safetensors").write_text("mine")
    assert "is there already" in run("decompose", cube, "-f", "tt", "--rank", "2", code=2).stderr
    assert Path("cube.tn.safetensors").read_text() == "mine"
    run("decompose", cube, "-f", "tt", "--rank", "2", "--force")
    assert tk.load("cube.tn.safetensors").ranks == (2, 2)
    assert "input itself" in run("decompose", "cube.tn.safetensors", "-o", "cube.tn.safetensors", code=2).stderr


def test_the_same_seed_gives_the_same_file(run, cube: Path) -> None:
    for name in ("a", "b"):
        run("decompose", cube, "-f", "cp", "--rank", "2", "--seed", "3", "-o", f"{name}.safetensors")
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
