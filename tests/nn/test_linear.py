"""FactoredLinear: exact at full rank, with the face of nn.Linear, wherever torch reads it."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tests.largest import Largest
from tnkit.formats import LowRank
from tnkit.nn import FactoredLinear, LowRankLayer, NetworkLayer, compress, compress_layer
from tnkit.nn.forms import LowRankForm


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-4) -> bool:
    return float((a - b).detach().norm()) <= tol * float(b.detach().norm())


@given(
    m=st.sampled_from([1, 2, 5, 13, 17]),
    n=st.sampled_from([1, 3, 7, 13, 16]),
    bias=st.booleans(),
    pivoted=st.sampled_from([True, False, None]),
    whiten=st.booleans(),
    execution=st.sampled_from(["factored", "materialized", "auto"]),
    lead=st.sampled_from([(), (4,), (2, 3), (0, 3)]),
    seed=st.integers(0, 99),
)
def test_exact_at_full_rank(
    m: int, n: int, bias: bool, pivoted: bool | None, whiten: bool, execution: str, lead: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(n, m, bias=bias, dtype=torch.float64), torch.randn(*lead, n, dtype=torch.float64)
    rows = torch.randn(5, n, dtype=torch.float64)
    spec = LowRankLayer(rank=min(m, n), pivoted=pivoted, whiten=whiten, execution=execution)
    result = compress_layer(layer, spec, gram=rows.mT @ rows)
    assert torch.allclose(result.module(x), layer(x), atol=1e-9)
    assert torch.allclose(result.module.weight, layer.weight, atol=1e-9)
    assert torch.allclose(result.format.to_dense(), layer.weight, atol=1e-9)


def test_each_step_can_be_looked_at() -> None:
    layer = nn.Linear(12, 8)
    result = compress_layer(layer, LowRankLayer(rank=3, pivoted=False))
    assert result.plan.is_identity
    assert isinstance(result.format, LowRank)
    assert result.format.ranks == (3,)
    assert close(result.format.to_dense().float(), result.module.weight)
    assert result.report.params_after == sum(p.numel() for p in result.module.parameters()) == 3 * 20 + 8
    assert result.module.n_factor_params() == result.format.n_params
    wrong = (result.module.weight - layer.weight).detach().norm() / layer.weight.detach().norm()
    assert float(wrong) == pytest.approx(result.report.rel_error, rel=1e-4)


def test_the_pivoted_form_is_the_same_matrix_with_fewer_numbers() -> None:
    for m, n in ((24, 40), (40, 24), (30, 30)):
        layer, x = nn.Linear(n, m), torch.randn(9, n)
        plain, pivoted = (compress_layer(layer, LowRankLayer(rank=10, pivoted=p)).module for p in (False, True))
        assert close(plain(x), pivoted(x))
        assert plain.n_factor_params() == 10 * (m + n)
        assert pivoted.n_factor_params() == 10 * (m + n - 10)
        assert pivoted.form.pivots == ("rows" if m <= n else "columns")


def test_the_face_of_the_layer() -> None:
    layer = nn.Linear(12, 8)
    module = compress_layer(layer, LowRankLayer(rank=3)).module
    assert (module.in_features, module.out_features) == (12, 8)
    assert module.weight.shape == layer.weight.shape
    assert module.weight.dtype == layer.weight.dtype
    assert torch.equal(module.bias, layer.bias)
    assert module.bias is not layer.bias
    assert compress_layer(nn.Linear(4, 4, bias=False), LowRankLayer(rank=1)).module.bias is None
    assert "ranks=(3,)" in repr(module)


def test_the_weight_is_differentiable() -> None:
    module = compress_layer(nn.Linear(12, 8), LowRankLayer(rank=3)).module
    for execution in ("factored", "materialized"):
        module.execution = execution
        module.zero_grad()
        module(torch.ones(2, 12)).sum().backward()
        grads = {n: p.grad.clone() for n, p in module.named_parameters()}
        assert set(grads) == {"left", "right", "bias"}
        if execution == "factored":
            first = grads
    assert all(torch.allclose(first[n], grads[n], atol=1e-5) for n in first)


def test_frozen_weights_stay_frozen() -> None:
    layer = nn.Linear(12, 8)
    layer.weight.requires_grad_(False)
    module = compress_layer(layer, LowRankLayer(rank=3)).module
    assert [p.requires_grad for p in (module.left, module.right, module.bias)] == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_in_and_out(dtype: torch.dtype) -> None:
    layer, x = nn.Linear(12, 8, dtype=dtype), torch.randn(3, 12, dtype=dtype)
    for pivoted in (None, True, False):
        module = compress_layer(layer, LowRankLayer(rank=8, pivoted=pivoted)).module
        assert {p.dtype for p in module.parameters()} == {dtype}
        assert module(x).dtype == dtype
        assert close(module(x).double(), layer(x).double(), 0.05)
    half = dtype in (torch.bfloat16, torch.float16)
    assert compress_layer(layer, LowRankLayer(rank=2)).module.form.pivots == ("none" if half else "rows")


def test_deepcopy_state_dict_and_pickling() -> None:
    module, x = compress_layer(nn.Linear(12, 8), LowRankLayer(rank=3)).module, torch.randn(4, 12)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    fresh = FactoredLinear.from_config(module.config(), torch.float32)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("pivoted", [True, False])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
def test_export(pivoted: bool, shape: tuple[int, int]) -> None:
    module, x = (
        compress_layer(nn.Linear(*shape), LowRankLayer(rank=3, pivoted=pivoted)).module,
        torch.randn(4, shape[0]),
    )
    exported = torch.export.export(module, (x,))
    assert torch.allclose(exported.module()(x), module(x), atol=1e-6)


def test_compile_in_one_graph() -> None:
    module, x = compress_layer(nn.Linear(12, 8), LowRankLayer(rank=3)).module, torch.randn(4, 12)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), module(x), atol=1e-6)


def test_functional_transforms() -> None:
    module, x = compress_layer(nn.Linear(12, 8), LowRankLayer(rank=3)).module, torch.randn(4, 12)
    assert torch.allclose(torch.func.vmap(module)(x), module(x), atol=1e-6)
    parameters = dict(module.named_parameters())
    grads = torch.func.grad(lambda p: torch.func.functional_call(module, p, (x,)).sum())(parameters)
    assert set(grads) == set(parameters)


def test_auto_measures_once_for_each_shape() -> None:
    module = compress_layer(nn.Linear(64, 64), LowRankLayer(rank=8, execution="auto")).module
    for rows in (3, 4, 100):
        module(torch.randn(rows, 64))
    assert len(module._faster) == 2  # 3 and 4 rows share a bucket


def test_subclasses_that_compute_as_linear_are_handled() -> None:
    layer = NonDynamicallyQuantizableLinear(12, 12)
    assert isinstance(compress_layer(layer, LowRankLayer(rank=3)).module, FactoredLinear)


def test_recompressing_a_compressed_layer() -> None:
    once = compress_layer(nn.Linear(30, 20), LowRankLayer(rank=10)).module
    again = compress_layer(once, LowRankLayer(rank=4)).module
    assert (again.ranks, again.bias.shape) == ((4,), (20,))
    same = compress_layer(once, LowRankLayer(rank=10)).module
    assert close(same.weight, once.weight)


def test_centred_fit_keeps_the_mean_output() -> None:
    layer = nn.Linear(10, 6, bias=False, dtype=torch.float64)
    x = torch.randn(200, 10, dtype=torch.float64) + 3
    from_calibration = compress(layer, None, calib=[x], rules={"": LowRankLayer(rank=2, pivoted=False, centred=True)})
    module = from_calibration[0]
    assert torch.allclose(module(x).mean(0), layer(x).mean(0))
    plain, _ = compress(layer, None, calib=[x], rules={"": LowRankLayer(rank=2, pivoted=False)})
    assert (module(x) - layer(x)).norm() < (plain(x) - layer(x)).norm()


@pytest.mark.parametrize(("m", "n"), [(40, 60), (60, 40)])
@pytest.mark.parametrize("rank", [3, 36])
def test_many_rows_and_few_give_the_same(m: int, n: int, rank: int) -> None:
    torch.manual_seed(0)
    form, t = LowRankForm.of(torch.randn(m, rank).double(), torch.randn(rank, n).double(), pivoted=True)
    x, bias = torch.randn(400, n).double(), torch.randn(m).double()
    want = x @ form.dense(t).mT + bias
    assert torch.allclose(form.apply(t, x, bias), want)
    assert torch.allclose(form.apply(t, x[:2], bias), want[:2])
    assert torch.allclose(form.apply(t, x[None, :50], None), (want - bias)[None, :50])


def test_a_cp_layer_of_high_rank_takes_bounded_memory() -> None:
    """Its rank is in the thousands; no matrix of its square is made, neither by the fit nor by the layer."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(1024, 512), torch.randn(16, 1024)
    with Largest() as seen:
        result = compress_layer(layer, NetworkLayer("cp", keep=0.6, time_limit_s=0.5))
        result.module(x)
    (rank,) = result.report.rank
    assert rank > 2500
    assert seen.most < rank**2 // 2
    assert result.report.params_after <= 0.6 * 512 * 1024 + 512
    assert result.report.rel_error < 1.0
