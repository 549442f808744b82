"""Sensitivity: errors weigh as much as the model's outputs feel them."""

import pytest
import torch
from torch import nn

from tnkit.nn import Budget, LowRankLayer, calibrate, compress
from tnkit.nn.opening import projection_input
from tnkit.nn.scope import find_scope
from tnkit.nn.sensitivity import Sensitivity, Site
from tnkit.nn.stats import InputStats


def gradients(model: nn.Module, *batches: object) -> dict[str, InputStats]:
    sites = {item.name: Site(item.layer, item.recipe) for item in find_scope(model).items}
    feeling = Sensitivity(model, sites)
    for batch in batches:
        feeling.add(batch, None)
    assert feeling.note == ""
    return feeling.found()


def test_it_is_the_squared_jacobian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    x = torch.randn(4000, 4)
    found = gradients(model, x)
    jacobian = model[1].weight.detach().double()
    assert torch.allclose(found["0"].gram[0] / 4000, jacobian.mT @ jacobian, atol=0.05)
    assert torch.allclose(found["1"].gram[0] / 4000, torch.eye(3, dtype=torch.float64), atol=0.1)


def test_nothing_of_the_model_is_touched() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).requires_grad_(False)
    state = torch.get_rng_state()
    gradients(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_outputs_that_nobody_uses_weigh_nothing() -> None:
    class Half(nn.Module):
        """Reads four of eight features, so the others may be wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 8, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)[..., :4]

    torch.manual_seed(0)
    model, x = Half(), torch.randn(300, 16, dtype=torch.float64)
    rules = {"fc": LowRankLayer(rank=4, pivoted=False)}
    felt, report = compress(model, None, calib=[x], rules=rules)
    plain, _ = compress(model, None, calib=[x], rules=rules, sensitivity=False)
    assert (felt(x) - model(x)).norm() < 0.2 * (plain(x) - model(x)).norm()
    assert report.output_error < 0.1


def test_where_the_budget_goes() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.loud(x) + 0.01 * self.quiet(x)

    torch.manual_seed(0)
    _, report = compress(Branches(), Budget(params=0.5), calib=[torch.randn(200, 24)])
    loud, quiet = report.layers
    assert loud.params_after > 2 * quiet.params_after


def test_a_model_that_cannot_be_differentiated_is_compressed_all_the_same() -> None:
    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.fc(x) > 0).float()

    _, report = compress(Hard(), Budget(params=0.5), calib=[torch.randn(20, 12)])
    assert report.layers[0].compressed
    assert "could not be differentiated" in str(report)


def test_a_limit_on_the_error_is_on_the_unweighted_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 2))
    _, report = compress(model, Budget(max_error=0.2), calib=[torch.randn(100, 20)])
    assert all(layer.rel_error <= 0.2 for layer in report.layers)


def test_few_rows_are_drawn_towards_the_identity() -> None:
    few = InputStats.of(torch.tensor([[1.0, 0.0, 0.0]]))
    assert torch.allclose(few.shrunk_mean()[0].diag(), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    many = InputStats.of(torch.eye(3).repeat(1000, 1))
    assert torch.allclose(many.shrunk_mean()[0], torch.eye(3, dtype=torch.float64) / 3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_input_of_an_attention_projection(batch_first: bool) -> None:
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval(), torch.randn(3, 5, 8)
    inner = projection_input(attention, (x, x, x), {})
    assert torch.allclose(attention.out_proj(inner), attention(x, x, x)[0], atol=1e-6)
    stats = calibrate(attention, [(x, x, x)])["out_proj"]
    rows = inner.detach().reshape(-1, 8).double()
    assert torch.allclose(stats.gram[0], rows.mT @ rows)
