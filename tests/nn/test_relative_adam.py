"""RelativeAdam and the whitened coordinates that it takes its steps in."""

import pytest
import torch
from torch import nn

import tnkit as tk
from tnkit.nn import LowRankLayer, compress_layer
from tnkit.nn.relative_adam import RelativeAdam
from tnkit.nn.whitening import Coordinates, whitened


def test_steps_are_shares_whatever_the_scale() -> None:
    parameters = [nn.Parameter(torch.full((4,), size)) for size in (1e-3, 1.0, 1e3)]
    adam = RelativeAdam(parameters, {})
    for p in parameters:
        p.grad = torch.randn(4, generator=torch.Generator().manual_seed(0))
    before = [p.detach().clone() for p in parameters]
    adam.step(0.01)
    changes = [float(((p.detach() - b).abs() / b).max()) for p, b in zip(parameters, before, strict=True)]
    assert changes[1:] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert changes[0] > 0.01  # as if it were a hundredth of the one in the middle


def test_a_bias_of_zeros_moves() -> None:
    weight, bias = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.zeros(3))
    adam = RelativeAdam([weight, bias], {})
    bias.grad = torch.ones(3)
    adam.step(0.1)
    assert float(bias.detach().abs().min()) > 0
    assert torch.equal(weight, torch.ones(3, 3))


def test_small_steps_add_up_in_half_types() -> None:
    p = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    adam = RelativeAdam([p], {})
    for _ in range(100):
        p.grad = torch.ones(2, dtype=torch.bfloat16)
        adam.step(1e-3)
    assert p.tolist() == pytest.approx([0.9, 0.9], abs=0.01)


def test_coordinates_are_linear_and_symmetric() -> None:
    left, right = (a @ a.T for a in (torch.randn(3, 3), torch.randn(5, 5)))
    both = Coordinates(1.0, left, right)
    g, d = torch.randn(3, 5), torch.randn(3, 5)
    assert float((both.through(g) * d).sum()) == pytest.approx(float((g * both.through(d)).sum()), rel=1e-3)
    diagonal = Coordinates(1.0, None, right.diagonal())
    assert torch.allclose(diagonal.through(g), Coordinates(1.0, None, torch.diag(right.diagonal())).through(g))


def uneven(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mixing and inputs of which a few directions carry nearly everything."""
    rng = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(size, size, generator=rng))[0] * torch.logspace(1, -1, size)
    return mix, torch.randn(600, size, generator=rng) @ mix.T


@pytest.mark.parametrize("pivoted", [True, False])
@pytest.mark.parametrize("sizes", [(24, 40), (40, 24)])
def test_white_coordinates_learn_faster_where_inputs_are_uneven(sizes: tuple[int, int], pivoted: bool) -> None:
    torch.manual_seed(0)
    n, m = sizes
    mix, x = uneven(n)
    dense = nn.Linear(n, m)
    dense.weight = nn.Parameter(torch.randn(m, n) @ torch.linalg.inv(mix) * 0.3)  # each direction of the input counts
    target = dense(x).detach()
    errors = []
    for white in (True, False):
        layer = compress_layer(dense, LowRankLayer(rank=12, pivoted=pivoted)).module
        adam = RelativeAdam(layer.parameters(), whitened(nn.Sequential(layer), [x]) if white else {})
        for step in range(150):
            layer.zero_grad()
            ((layer(x) - target).square().sum() / target.square().sum()).backward()
            adam.step(0.01 * (1 - step / 150))
        errors.append(float(((layer(x) - target).square().sum() / target.square().sum()).detach()))
    rest = torch.linalg.svdvals(target - dense.bias.detach())[12:].square().sum() / target.square().sum()
    assert errors[0] - float(rest) < 0.7 * (errors[1] - float(rest))


def test_layers_that_no_batch_called_have_no_coordinates() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    small, _ = tk.nn.compress(Half(), tk.Budget(params=0.5), measure=False)
    found = whitened(small, [torch.randn(4, 32)])
    assert set(found) == set(small.used.parameters())


def test_wide_inputs_are_whitened_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnkit.nn.whitening.MOST", 16)
    small, _ = tk.nn.compress(nn.Sequential(nn.Linear(32, 16)), tk.Budget(params=0.5), measure=False)
    found = whitened(small, [torch.randn(64, 32)])
    assert found[small[0].right].right.ndim == 1
    assert found[small[0].left].right.ndim == 2
