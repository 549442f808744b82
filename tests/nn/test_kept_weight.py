"""A dense weight that is in use stays until the factors change, and is in no copy, file or gradient."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tnkit.nn import FactoredModule, LowRankLayer, NetworkLayer, Tucker2, compress_layer
from tnkit.nn.forms.network import as_matrices

MADE: dict[str, tuple[Callable[[], nn.Module], object, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 8), NetworkLayer("cp", keep=0.8), (5, 12)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), Tucker2(rank=(3, 3)), (2, 4, 7, 7)),
}


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> tuple[FactoredModule, torch.Tensor]:
    torch.manual_seed(0)
    layer, spec, shape = MADE[request.param]
    module = compress_layer(layer().double(), spec).module.eval()
    module.execution = "materialized"
    return module, torch.randn(*shape, dtype=torch.float64)


def counted(module: FactoredModule, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the dense weight is made."""
    calls: list[int] = []
    kind = type(module.form)
    original = kind.dense

    def dense(self: object, t: object) -> torch.Tensor:
        calls.append(1)
        return original(self, t)

    monkeypatch.setattr(kind, "dense", dense)
    return calls


@torch.no_grad()
def by_factors(module: FactoredModule, x: torch.Tensor) -> torch.Tensor:
    return module.forward_factored(x)


def test_made_once_and_again_when_a_factor_changes(
    made: tuple[FactoredModule, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = made
    calls = counted(module, monkeypatch)
    with torch.no_grad():
        for _ in range(3):
            module(x)
        assert len(calls) == 1
        first = next(module.parameters())
        first.mul_(2.0)
        assert torch.allclose(module(x), by_factors(module, x), atol=1e-8)
        assert len(calls) == 2
        module.load_state_dict({k: v * 0.5 for k, v in module.state_dict().items()})
        assert torch.allclose(module(x), by_factors(module, x), atol=1e-8)
        first.data = 3.0 * first.data
        assert torch.allclose(module(x), by_factors(module, x), atol=1e-8)
        first.data.mul_(2.0)
        assert torch.allclose(module.eval()(x), by_factors(module, x), atol=1e-8)
        assert module.float()(x.float()).dtype == torch.float32


def test_steps_of_training_are_seen(made: tuple[FactoredModule, torch.Tensor]) -> None:
    module, x = made
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        with torch.no_grad():
            assert torch.allclose(module(x), by_factors(module, x), atol=1e-8)
        optimizer.zero_grad()
        module(x).square().mean().backward()
        assert all(p.grad is not None for p in module.parameters())
        optimizer.step()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch.func.jvp itself
def test_derivatives_do_not_meet_a_kept_weight(made: tuple[FactoredModule, torch.Tensor]) -> None:
    module, x = made
    with torch.no_grad():
        module(x)
    values = {k: v.detach() for k, v in module.named_parameters()}

    def f(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, p, (x,)).sum()

    one = {k: torch.ones_like(v) for k, v in values.items()}
    forward = torch.func.jvp(f, (values,), (one,))[1]
    backward = sum(g.sum() for g in torch.func.grad(f)(values).values())
    assert float(forward) == pytest.approx(float(backward), rel=1e-4)
    assert abs(float(forward)) > 1e-3
    many = {k: torch.stack([v, 2 * v]) for k, v in values.items()}
    both = torch.func.vmap(f)(many)
    assert torch.allclose(both, torch.stack([f(values), f({k: 2 * v for k, v in values.items()})]), rtol=1e-4)


def test_a_weight_made_in_inference_mode_serves_gradients_of_inputs(
    made: tuple[FactoredModule, torch.Tensor],
) -> None:
    module, x = made
    for p in module.parameters():
        p.requires_grad_(False)
    with torch.inference_mode():
        want = module(x)
    x.requires_grad_()
    y = module(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.allclose(y, want.clone(), atol=1e-8)


def test_copies_and_files_hold_nothing_of_it(made: tuple[FactoredModule, torch.Tensor]) -> None:
    module, x = made

    def size() -> int:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        return len(buffer.getvalue())

    before, names = size(), set(module.state_dict())
    with torch.no_grad():
        module(x)
    assert size() == before
    assert set(module.state_dict()) == names
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
        assert not twin(x).any()
        assert torch.allclose(module(x), by_factors(module, x), atol=1e-8)


def test_factored_layers_and_tables_keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = compress_layer(nn.Linear(12, 8), NetworkLayer("cp", keep=0.8, execution="factored")).module.eval()
    table = compress_layer(nn.Embedding(30, 8), LowRankLayer(rank=3, execution="materialized")).module.eval()
    calls, tables = counted(module, monkeypatch), counted(table, monkeypatch)
    with torch.no_grad():
        module(torch.randn(3, 12))
        assert not calls
        for _ in range(2):
            table(torch.arange(4))
        assert len(tables) == 2


@pytest.mark.parametrize("shape", [(36, 48), (35, 47), (64, 16)])
@pytest.mark.parametrize("rows", [1, 7, 200])
def test_cp_as_two_matrices_is_the_planners_network(
    shape: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without a bias, padded sizes or not, the two ways agree."""
    torch.manual_seed(0)
    m, n = shape
    module = compress_layer(nn.Linear(n, m).double(), NetworkLayer("cp", keep=0.7, time_limit_s=0.2)).module
    x = torch.randn(2, rows, n, dtype=torch.float64)
    form = module.form
    assert as_matrices(form.equation, form.shapes, form.n_rows, 0) is not None
    with torch.no_grad():
        fast, dense = module.forward_factored(x), module.weight
        monkeypatch.setattr("tnkit.nn.forms.network.as_matrices", lambda *a: None)
        assert torch.allclose(fast, module.forward_factored(x), atol=1e-8)
        assert torch.allclose(dense, module.weight, atol=1e-8)
