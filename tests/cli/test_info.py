from pathlib import Path

import numpy as np
import torch

import tnkit as tk


def test_a_network(run, run_json, cube: Path) -> None:
    run("decompose", cube, "-f", "tt", "--rank", "2")
    values = run_json("info", "cube.tn.safetensors")
    assert (values["kind"], values["format"], values["shape"], values["ranks"]) == ("network", "tt", [8, 9, 10], [2, 2])
    assert values["tensors"] == [[1, 8, 2], [2, 9, 2], [2, 10, 1]]
    text = run("info", "cube.tn.safetensors", "--plan").stdout
    assert "2 × 9 × 2" in text
    assert len(text.splitlines()) > len(run("info", "cube.tn.safetensors").stdout.splitlines())


def test_arrays(run_json, run, x: np.ndarray) -> None:
    holes = x.copy()
    holes[0, 0, 0] = np.nan
    np.savez("two.npz", x=holes, mask=np.isnan(holes))
    values = run_json("info", "two.npz")
    assert values["arrays"]["x"]["shape"] == [8, 9, 10]
    assert values["arrays"]["x"]["missing"] == 1
    assert "1 NaN" in run("info", "two.npz").stdout


def test_a_compressed_model(run_json) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 32))
    tk.nn.save(tk.nn.compress(model, tk.Budget(params=0.5))[0], "small.safetensors")
    values = run_json("info", "small.safetensors")
    assert values["kind"] == "model"
    assert list(values["layers"]) == ["0"]


def test_scalars_and_empty_arrays_are_shown_too(run_json) -> None:
    np.save("scalar.npy", np.float64(3.0))
    np.save("empty.npy", np.zeros((0, 3)))
    assert run_json("info", "scalar.npy")["arrays"][""]["shape"] == []
    assert run_json("info", "empty.npy")["arrays"][""]["shape"] == [0, 3]
