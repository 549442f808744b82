from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tnkit as tk


@pytest.fixture
def holes(tmp_path: Path, x: np.ndarray) -> np.ndarray:
    """`x` with half of its entries gone."""
    found = x.copy()
    found[np.random.default_rng(0).random(x.shape) < 0.5] = np.nan
    np.save(tmp_path / "holes.npy", found)
    return found


def test_nan(run, run_json, holes: np.ndarray, x: np.ndarray) -> None:
    values = run_json("complete", "holes.npy", "-f", "tt", "--rank", "2", "--tensor", "t.safetensors")
    assert values["output"] == "holes.filled.npy"
    filled, seen = np.load("holes.filled.npy"), ~np.isnan(holes)
    assert np.array_equal(filled[seen], holes[seen])
    assert np.linalg.norm(filled - x) < 0.1 * np.linalg.norm(x)
    assert tk.load("t.safetensors").ranks == (2, 2)


def test_mask_and_value(run, holes: np.ndarray, x: np.ndarray) -> None:
    seen = ~np.isnan(holes)
    np.save("whole.npy", x)
    np.save("mask.npy", seen.astype(np.uint8) * 255)
    np.save("minus.npy", np.where(seen, x, -1.0))
    run("complete", "whole.npy", "--mask", "mask.npy", "-f", "tt", "--rank", "2", "-o", "a.npy")
    run("complete", "minus.npy", "--missing", "-1", "-f", "tt", "--rank", "2", "-o", "b.npy")
    run("complete", "holes.npy", "-f", "tt", "--rank", "2", "-o", "c.npy")
    assert np.array_equal(np.load("a.npy"), np.load("c.npy"))
    assert np.array_equal(np.load("b.npy"), np.load("c.npy"))


def test_a_colour_image_with_a_grey_mask(run) -> None:
    ramp = np.stack([np.add.outer(np.arange(24), np.arange(20)) * k for k in (2, 3, 4)], axis=2).astype(np.uint8)
    seen = np.random.default_rng(0).random((24, 20)) < 0.6
    Image.fromarray(ramp * seen[:, :, None].astype(np.uint8)).save("photo.png")
    Image.fromarray(seen.astype(np.uint8) * 255).save("seen.png")
    run("complete", "photo.png", "--mask", "seen.png", "-f", "tucker", "--rank", "2", "--report", "photo.html")
    filled = np.asarray(Image.open("photo.filled.png"))
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[seen], ramp[seen])
    assert np.abs(filled.astype(int) - ramp).mean() < 8
    assert Path("photo.html").read_text().count("data:image/png") == 2


def test_a_mask_of_the_holes(run) -> None:
    """What is seen is zero everywhere: most likely the mask is the other way round."""
    ramp = np.add.outer(np.arange(24.0), np.arange(1.0, 21.0))
    ramp[5:8] = 0
    np.save("torn.npy", ramp)
    np.save("holes.npy", ramp == 0)
    np.save("seen.npy", ramp != 0)
    assert "not the holes" in run("complete", "torn.npy", "--mask", "holes.npy", "-o", "a.npy").stderr
    assert "not the holes" not in run("complete", "torn.npy", "--mask", "seen.npy", "-o", "b.npy").stderr


def test_what_cannot_be(run, cube: Path, x: np.ndarray) -> None:
    assert "--mask FILE or --missing VALUE" in run("complete", cube, code=2).stderr
    np.save("other.npy", np.ones((8, 9, 11)))
    assert "(8, 9, 11)" in run("complete", cube, "--mask", "other.npy", code=2).stderr
    np.save("none.npy", np.zeros_like(x))
    assert "observed" in run("complete", cube, "--mask", "none.npy", code=2).stderr
    assert not list(Path().glob("*.filled.*"))


def test_a_long_table(run, run_json) -> None:
    truth = np.outer(np.arange(1.0, 7.0), np.arange(1.0, 9.0))
    seen = np.random.default_rng(0).random(truth.shape) < 0.7
    lines = [f"s{i};{10 * j};{truth[i, j]:g}" for i, j in np.argwhere(seen)]
    Path("sales.csv").write_text("shop;day;sold\n" + "\n".join(lines) + "\n")
    values = run_json("complete", "sales.csv", "-f", "lowrank", "--rank", "1")
    rows = [line.split(",") for line in Path("sales.filled.csv").read_text().splitlines()]
    assert rows[0] == ["shop", "day", "sold"]
    assert values["filled"] == (~seen).sum()
    assert [row[:2] for row in rows[1:]] == [[f"s{i}", str(10 * j)] for i in range(6) for j in range(8)]
    np.testing.assert_allclose([float(row[2]) for row in rows[1:]], truth.ravel(), atol=1e-3)


def test_rows_of_a_table_that_ask_for_a_value(run) -> None:
    rows = [f"{i},{j},x,{i + 2 * j if (i, j) != (2, 3) else ''}" for i in range(5) for j in range(6)]
    Path("t.csv").write_text("\n".join(["i,j,note,v", *rows]))
    run("complete", "t.csv", "--modes", "i,j", "-f", "lowrank", "--rank", "2", "-o", "u.csv")
    after = Path("u.csv").read_text().splitlines()
    assert [line for k, line in enumerate(after[1:]) if k != 15] == [line for k, line in enumerate(rows) if k != 15]
    assert abs(float(after[16].split(",")[3]) - 8) < 1e-3


def test_tables_that_cannot_be(run) -> None:
    Path("a.csv").write_text("i,v\n1,2\n2,two\n")
    assert "is no number" in run("complete", "a.csv", code=2).stderr
    Path("b.csv").write_text("i,v\n1,\n")
    assert "nothing is observed" in run("complete", "b.csv", code=2).stderr
    Path("c.csv").write_text("i,v\n1,2\n3\n")
    assert "row 3 has 1 cells" in run("complete", "c.csv", code=2).stderr
    Path("d.csv").write_text("i,v\n1,2\n")
    assert "no column 'x'" in run("complete", "d.csv", "--value", "x", code=2).stderr
    assert "leave --mask" in run("complete", "d.csv", "--missing", "0", code=2).stderr
    assert "written as .csv" in run("complete", "d.csv", "-o", "d.npy", code=2).stderr
    assert not list(Path().glob("*.filled.*"))


def test_npz_by_name(run, holes: np.ndarray) -> None:
    np.savez("two.npz", a=holes, b=np.ones(3))
    run("complete", "two.npz", "--name", "a", "-f", "tt", "--rank", "2")
    run("complete", "holes.npy", "-f", "tt", "--rank", "2", "-o", "c.npy")
    assert np.array_equal(np.load("two.filled.npz")["array"], np.load("c.npy"))
