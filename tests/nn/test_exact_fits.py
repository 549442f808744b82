"""Closed forms are exact also where the spectrum falls slowly and a sketch would be cheaper."""

import pytest
import torch
from torch import Tensor, nn

import tnkit as tk


def slow(m: int, n: int) -> Tensor:
    """A matrix whose singular values fall like k^-.3."""
    rng = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(x, min(m, n), generator=rng, dtype=torch.float64))[0] for x in (m, n))
    return (u * torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -0.3) @ v.mT


def least(matrix: Tensor, rank: int) -> float:
    """The relative error of the best matrix of a rank."""
    s = torch.linalg.svdvals(matrix)
    return float(s[rank:].norm() / s.norm())


@pytest.mark.parametrize("format", ["kron", "lowrank"])
def test_no_sketch_stands_between_a_layer_and_the_closed_form(format: str) -> None:
    w = slow(256, 576)
    layer = nn.Linear(576, 256, bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(w)
    spec = tk.nn.NetworkLayer(format, keep=0.25)
    made = tk.nn.compress_layer(layer, spec)
    sizes = tk.KronSpec().layout((256, 576)).sizes
    a, b, p, q = (sizes[k] for k in "abpq")
    matrix = w if format == "lowrank" else w.reshape(a, b, p, q).permute(0, 2, 1, 3).reshape(a * p, b * q)
    assert made.report.rel_error == pytest.approx(least(matrix, made.report.rank[0]), rel=1e-7)


def test_exact_is_an_option_of_the_method() -> None:
    w = slow(600, 640)
    exact = tk.decompose(w, "lowrank", rank=20, method=tk.MatrixSVD(exact=True))
    assert exact.rel_error == pytest.approx(least(w, 20), rel=1e-9)
