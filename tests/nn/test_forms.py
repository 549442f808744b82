"""Every layer type in every format: exact at full rank, the factors computing what the weight does."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

import tnkit as tk
from tnkit.errors import OptionError, RankError, ShapeError
from tnkit.nn import (
    AnyOf,
    ChannelSVD,
    CommonRows,
    CPLayer,
    FactoredConv,
    FactoredConv1D,
    FactoredEmbedding,
    FactoredEmbeddingBag,
    FactoredLinear,
    FactoredModule,
    LayerSpec,
    LowRankLayer,
    NetworkLayer,
    SearchedLayer,
    SparseLayer,
    SpatialSVD,
    Tucker2,
    compress_layer,
    materialize,
)
from tnkit.nn.forms import FORMS
from tnkit.nn.specs import LAYER_SPECS
from tnkit.testing import check_layer

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

QUICK = tk.ALS(max_steps=2, starts=1, start="random", newton=False)
FULL = 1000  # every bond as large as it may be
#: Formats of matrices that are exact at full rank, for a (11, 13) weight with prime sides.
MATRICES: dict[str, LayerSpec] = {
    "low rank": LowRankLayer(rank=11, pivoted=False),
    "pivoted": LowRankLayer(rank=11, pivoted=True),
    "low rank, sparse": SparseLayer(rank=11, density=0.05),
    "TT matrix": NetworkLayer("ttm", rank=FULL),
    "TT matrix, padded": NetworkLayer(tk.TTMatrixSpec(rows=(3, 4), columns=(4, 4)), rank=FULL),
    "TT matrix, split": NetworkLayer(tk.TTMatrixSpec(rows=(3, 4), columns=(4, 4), order="split"), rank=FULL),
    "TT, split": NetworkLayer("tt", rank=FULL, rows=(4, 3), columns=(2, 7)),
    "TT, interleaved": NetworkLayer("tt", rank=FULL, rows=(4, 3), columns=(2, 7), order="interleaved"),
    "ring, split": NetworkLayer("tr", rank=FULL, rows=(4, 3), columns=(2, 7)),
    "ring, interleaved": NetworkLayer("tr", rank=FULL, rows=(4, 3), columns=(2, 7), order="interleaved"),
    "Tucker": NetworkLayer("tucker", rank=FULL, rows=(4, 3), columns=(2, 7)),
    "Tucker, interleaved": NetworkLayer("tucker", rank=FULL, rows=(4, 3), columns=(2, 7), order="interleaved"),
    "tree": NetworkLayer("ht", rank=FULL, rows=(4, 3), columns=(2, 7)),
    "block TT": NetworkLayer("btt", rank=FULL),
    "BLAST": NetworkLayer(tk.BLASTSpec(blocks=(2, 3)), rank=11),
    "Kronecker sum": NetworkLayer("kron", rank=FULL),
    "equation": NetworkLayer("ia,ajb,bk->ijk", rank=FULL, rows=(11,), columns=(2, 7)),
    "equation, matrix": NetworkLayer("oa,ab,bi->oi", rank=FULL),
}
#: Those whose error at a rank is what a search finds; their layers must still be what their formats are.
SEARCHED: dict[str, LayerSpec] = {
    "Monarch": NetworkLayer("monarch", rank=1),
    "CP": NetworkLayer("cp", rank=3, rows=(4, 3), columns=(2, 7), method=QUICK),
    "block term": NetworkLayer("btd", rank=2, rows=(4, 3), columns=(2, 7), method=QUICK),
    "hyperedge": NetworkLayer("or,r,ri->oi", rank=4, method=QUICK),
    "low rank, sparse": SparseLayer(rank=2, density=0.1),
}
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-9) -> bool:
    return a.shape == b.shape and float((a - b).detach().norm()) <= tol * max(float(b.detach().norm()), 1e-6)


def matrix_layers() -> dict[str, tuple[nn.Module, type[FactoredModule], tuple[torch.Tensor, ...]]]:
    """A layer of each type whose weight is a (11, 13) matrix, the compressed one's type, and an input."""
    torch.manual_seed(0)
    conv1d = Conv1D(11, 13).double()
    ids = torch.randint(11, (3, 5))
    rows, bags = torch.randn(2, 3, 13, **DOUBLE), torch.tensor([0, 2, 2, 7])
    return {
        "linear": (nn.Linear(13, 11, **DOUBLE), FactoredLinear, (rows,)),
        "no bias": (nn.Linear(13, 11, bias=False, **DOUBLE), FactoredLinear, (rows,)),
        "hf": (conv1d, FactoredConv1D, (rows,)),
        "embedding": (nn.Embedding(11, 13, padding_idx=3, **DOUBLE), FactoredEmbedding, (ids,)),
        "bag": (nn.EmbeddingBag(11, 13, **DOUBLE), FactoredEmbeddingBag, (ids,)),
        "bag, offsets": (
            nn.EmbeddingBag(11, 13, mode="sum", padding_idx=2, **DOUBLE),
            FactoredEmbeddingBag,
            (ids.flatten(), bags, torch.rand(15, **DOUBLE)),
        ),
        "bag, largest": (nn.EmbeddingBag(11, 13, mode="max", **DOUBLE), FactoredEmbeddingBag, (ids,)),
    }


@pytest.mark.parametrize("kind", matrix_layers())
@pytest.mark.parametrize("name", MATRICES)
def test_exact_at_full_rank(kind: str, name: str) -> None:
    layer, module_type, args = matrix_layers()[kind]
    for execution in ("factored", "materialized", "auto"):
        result = compress_layer(layer, replace(MATRICES[name], execution=execution))
        assert type(result.module) is module_type
        assert close(result.module(*args), layer(*args))
    assert close(result.module.weight, layer.weight)
    assert close(result.format.to_dense(), layer.weight)
    assert type(materialize(nn.Sequential(result.module))[0]) is type(layer)
    assert result.report.params_after == sum(p.numel() for p in result.module.parameters())


@pytest.mark.parametrize("kind", ["linear", "hf", "embedding", "bag"])
@pytest.mark.parametrize("name", SEARCHED)
def test_the_factors_compute_what_the_weight_does(kind: str, name: str) -> None:
    layer, _, args = matrix_layers()[kind]
    result = compress_layer(layer, replace(SEARCHED[name], execution="factored"))
    module = result.module
    dense = materialize(nn.Sequential(module))[0]
    assert close(module(*args), dense(*args), 1e-8)
    assert close(result.format.to_dense(), module.weight, 1e-8)
    if kind != "hf":
        assert result.report.params_after == sum(p.numel() for p in module.parameters())
        assert result.module.n_factor_params() == result.format.n_params


CONVOLUTIONS: dict[str, LayerSpec] = {
    "Tucker-2": Tucker2(max_error=1e-6),
    "channel SVD": ChannelSVD(max_error=1e-7),
    "channel SVD, two factors": ChannelSVD(max_error=1e-7, pivoted=False),
    "spatial SVD": SpatialSVD(max_error=1e-7),
    "Tucker": NetworkLayer("tucker", rank=FULL),
    "TT": NetworkLayer("tt", rank=FULL),
    "tree": NetworkLayer("ht", rank=FULL),
    "low rank": NetworkLayer("lowrank", rank=FULL),
    "TT matrix": NetworkLayer("ttm", rank=FULL),
    "block TT": NetworkLayer("btt", rank=FULL),
    "BLAST": NetworkLayer("blast", rank=FULL),
    "Kronecker sum": NetworkLayer("kron", rank=FULL),
}
CONVS = {(1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d}
CONVS |= {(1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d}
SIZES = (7, 6, 5)


@settings(max_examples=60)
@given(
    d=st.integers(1, 3),
    transposed=st.booleans(),
    channels=st.sampled_from([(2, 3, 1), (3, 2, 1), (4, 6, 2), (5, 5, 5), (1, 1, 1)]),
    kernel=st.sampled_from([(1, 1, 1), (3, 2, 1), (2, 3, 2)]),
    stride=st.sampled_from([(1, 1, 1), (1, 2, 1), (2, 3, 2)]),
    dilation=st.sampled_from([(1, 1, 1), (2, 1, 2)]),
    padding=st.sampled_from([(0, 0, 0), (1, 1, 0), "same", "valid"]),
    mode=st.sampled_from(["zeros", "reflect", "circular", "replicate"]),
    extra=st.booleans(),
    bias=st.booleans(),
    unbatched=st.booleans(),
    name=st.sampled_from(sorted(CONVOLUTIONS)),
)
def test_convolutions_are_exact_for_every_option(
    d: int,
    transposed: bool,
    channels: tuple[int, int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...] | str,
    mode: str,
    extra: bool,
    bias: bool,
    unbatched: bool,
    name: str,
) -> None:
    i, o, groups = channels
    options: dict[str, Any] = {"stride": stride[:d], "dilation": dilation[:d], "groups": groups, "bias": bias}
    options["padding"] = padding if isinstance(padding, str) else padding[:d]
    if transposed:
        assume(not isinstance(padding, str))
        room = [max(s, t) for s, t in zip(stride[:d], dilation[:d], strict=True)]
        options["output_padding"] = tuple(int(extra and n > 1) for n in room)
    else:
        assume(padding != "same" or (set(stride[:d]) == {1} and all(k % 2 or k == 2 for k in kernel[:d])))
        options["padding_mode"] = mode
    conv = CONVS[d, transposed](i, o, kernel[:d], **options, **DOUBLE)
    x = torch.randn(*(() if unbatched else (2,)), i, *SIZES[:d], **DOUBLE)
    result = compress_layer(conv, replace(CONVOLUTIONS[name], execution="factored"))
    module = result.module
    want = conv(x)
    assert close(module(x), want, 1e-5)
    assert close(module.forward_materialized(x), want, 1e-5)
    assert close(module.weight, conv.weight, 1e-5)
    face = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    assert all(getattr(module, n) == getattr(conv, n) for n in (*face, "transposed", "output_padding"))
    back = materialize(nn.Sequential(module))[0]
    assert type(back) is type(conv)
    assert close(back(x), want, 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "spec",
    [
        CPLayer(rank=2, method=QUICK),
        NetworkLayer("cp", rank=2, method=QUICK),
        NetworkLayer("btd", rank=2, method=QUICK),
        NetworkLayer("tr", rank=2, method=QUICK),
        NetworkLayer("oa,acd,ci,hd->oih", rank=2, method=QUICK),
        Tucker2(rank=(2, 1)),
        SpatialSVD(rank=1),
    ],
    ids=str,
)
def test_stages_compute_what_the_kernel_does(spec: LayerSpec, groups: int, transposed: bool) -> None:
    d = 1 if getattr(spec, "format", "") == "oa,acd,ci,hd->oih" else 2
    options = {"stride": (2, 1)[:d], "dilation": (1, 2)[:d], "padding": (1, 0)[:d], "groups": groups}
    conv = CONVS[d, transposed](4, 6, (3, 2)[:d], **options, **DOUBLE)
    module = compress_layer(conv, replace(spec, execution="factored")).module
    x = torch.randn(2, 4, *(7, 8)[:d], **DOUBLE)
    assert close(module(x), module.forward_materialized(x))


def test_a_kernel_of_known_rank_is_found_again() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(5, 7, 3, bias=False, **DOUBLE), torch.randn(2, 5, 6, 6, **DOUBLE)
    parts = [torch.randn(n, 3, **DOUBLE) for n in (7, 5, 3, 3)]
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("or,ir,hr,wr->oihw", *parts))
    result = compress_layer(conv, CPLayer(rank=3))
    assert close(result.module(x), conv(x), 1e-6)
    norms = [result.module.get_parameter(n).norm() for n in ("first", "axis0", "axis1", "last")]
    assert max(norms).detach() / min(norms).detach() < 3  # terms are balanced


def test_output_size_of_a_transposed_convolution() -> None:
    conv, x = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 5, 6)
    module = compress_layer(conv, ChannelSVD(rank=4)).module
    assert torch.allclose(module(x, output_size=[10, 11]), conv(x, output_size=[10, 11]), atol=1e-5)
    with pytest.raises(ValueError, match="output size"):
        module(x, output_size=[30, 30])


#: Forms that whole blocks get; no specification makes them.
OF_BLOCKS = {"partial", "resized"}
SMALL: dict[str, tuple[nn.Module, LayerSpec, tuple[torch.Tensor, ...]]] = {
    "low rank": (nn.Linear(9, 8), LowRankLayer(rank=3, pivoted=False), (torch.randn(4, 9),)),
    "pivoted rows": (nn.Linear(9, 8), LowRankLayer(rank=3), (torch.randn(4, 9),)),
    "pivoted columns": (nn.Linear(8, 9), LowRankLayer(rank=3), (torch.randn(4, 8),)),
    "any of": (nn.Linear(9, 8), AnyOf((LowRankLayer(rank=3), NetworkLayer("btt", rank=1))), (torch.randn(4, 9),)),
    "searched": (nn.Linear(9, 8), SearchedLayer(candidates=(LowRankLayer(),), keep=0.6), (torch.randn(4, 9),)),
    "sparse": (nn.Linear(9, 8), SparseLayer(rank=2, density=0.1), (torch.randn(4, 9),)),
    "ring": (nn.Linear(9, 8), NetworkLayer("tr", rank=2, method=QUICK), (torch.randn(2, 3, 9),)),
    "blast": (nn.Linear(9, 8), NetworkLayer("blast", rank=2, method=QUICK), (torch.randn(4, 9),)),
    "hf": (Conv1D(8, 9), LowRankLayer(rank=3), (torch.randn(4, 9),)),
    "embedding": (nn.Embedding(9, 8), LowRankLayer(rank=3), (torch.tensor([[1, 8]]),)),
    "common rows": (nn.Embedding(9, 4), CommonRows(rank=(2, 3)), (torch.tensor([[1, 8]]),)),
    "embedding, TT": (nn.Embedding(9, 8), NetworkLayer("ttm", rank=2), (torch.tensor([[1, 8]]),)),
    "bag": (nn.EmbeddingBag(9, 8), LowRankLayer(rank=3), (torch.tensor([[1, 8]]),)),
    "tucker2": (nn.Conv2d(4, 6, 3, padding="same"), Tucker2(rank=(3, 2)), (torch.randn(2, 4, 7, 7),)),
    "channel": (nn.Conv1d(4, 6, 3), ChannelSVD(rank=2), (torch.randn(2, 4, 7),)),
    "spatial": (nn.Conv2d(4, 6, 3), SpatialSVD(rank=2), (torch.randn(2, 4, 7, 7),)),
    "cp": (nn.Conv3d(2, 3, 2), CPLayer(rank=2, method=QUICK), (torch.randn(2, 2, 4, 4, 4),)),
    "block term": (nn.Conv2d(4, 6, 3, groups=2), NetworkLayer("btd", rank=1, method=QUICK), (torch.randn(2, 4, 7, 7),)),
    "kernel, padded": (nn.Conv2d(4, 6, 3), NetworkLayer("btt", rank=1), (torch.randn(2, 4, 7, 7),)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), Tucker2(rank=(3, 2)), (torch.randn(2, 4, 4, 4),)),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_contract_of_layers(name: str) -> None:
    layer, spec, args = SMALL[name]
    check_layer(layer.eval(), spec, *args)


def test_every_form_and_every_specification_is_tried_here() -> None:
    kinds = {compress_layer(layer, spec).module.form.kind for layer, spec, _ in SMALL.values()}
    assert kinds == set(FORMS.names()) - OF_BLOCKS
    assert {spec.name for _, spec, _ in SMALL.values()} == set(LAYER_SPECS.names())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SMALL)
def test_half_types_in_and_out(name: str, dtype: torch.dtype) -> None:
    layer, spec, args = SMALL[name]
    layer = copy.deepcopy(layer).to(dtype)
    args = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
    module = compress_layer(layer, replace(spec, execution="factored")).module
    assert {p.dtype for p in module.parameters()} == {dtype}
    got, want = module(*args), materialize(nn.Sequential(module))[0](*args)
    assert got.dtype == dtype
    assert close(got.float(), want.float(), 0.05)


def test_batches_of_any_size_share_a_plan() -> None:
    module = compress_layer(nn.Linear(9, 8), NetworkLayer("tt", rank=2)).module
    exported = torch.export.export(
        module, (torch.randn(4, 9),), dynamic_shapes={"input": {0: torch.export.Dim("rows", min=2)}}
    )
    for rows in (2, 7, 300):
        x = torch.randn(rows, 9)
        assert torch.allclose(exported.module()(x), module(x), atol=1e-5)
    assert module(torch.randn(0, 9)).shape == (0, 8)
    assert torch.func.vmap(module)(torch.randn(3, 9)).shape == (3, 8)


class TestInTheMetricOfTheInputs:
    """Formats without a closed form are fitted to what the layer's inputs see."""

    @pytest.mark.parametrize("spec", [NetworkLayer("btt", rank=2), NetworkLayer("kron", rank=3), SparseLayer(rank=2)])
    def test_the_error_of_the_output_is_smaller(self, spec: LayerSpec) -> None:
        torch.manual_seed(0)
        layer = nn.Linear(16, 12, **DOUBLE)
        x = torch.randn(200, 16, **DOUBLE) * torch.logspace(0, -3, 16, **DOUBLE)
        y = layer(x).detach()
        plain, fitted = (compress_layer(layer, spec, gram=g) for g in (None, x.mT @ x))
        errors = [float(((r.module(x) - y).norm() / (y - layer.bias).norm()).detach()) for r in (plain, fitted)]
        assert errors[1] < 0.8 * errors[0]
        assert fitted.report.rel_error == pytest.approx(errors[1], rel=1e-3)

    def test_convolutions(self) -> None:
        torch.manual_seed(0)
        conv = nn.Conv2d(6, 8, 3, **DOUBLE)
        x = torch.randn(40, 6, 5, 5, **DOUBLE) * torch.logspace(0, -3, 6, **DOUBLE)[:, None, None]
        gram = torch.einsum("nihw,njhw->ij", x, x)
        bias = conv.bias.detach()[:, None, None]
        y = conv(x).detach() - bias
        for spec in (SpatialSVD(rank=3), NetworkLayer("tucker", rank=(3, 3, 2, 2)), CPLayer(rank=4, method=QUICK)):
            errors = []
            for g in (None, gram):
                z = compress_layer(conv, spec, gram=g).module(x).detach() - bias
                errors.append(float((z - y).norm()))
            assert errors[1] < errors[0]


class TestRefusals:
    def test_ranks_and_shapes(self) -> None:
        layer = nn.Linear(9, 8)
        with pytest.raises(RankError, match="exceeds"):
            compress_layer(layer, NetworkLayer("kron", rank=(500,)))
        with pytest.raises(RankError, match="positive"):
            NetworkLayer("kron", rank=0)
        with pytest.raises(ShapeError, match="do not cover"):
            compress_layer(layer, NetworkLayer("tt", rank=2, rows=(2, 2), columns=(3, 3)))
        with pytest.raises(OptionError, match="as many rows"):
            compress_layer(layer, NetworkLayer("tt", rank=2, rows=(2, 4), columns=(9,), order="interleaved"))
        with pytest.raises(OptionError, match="constants"):
            compress_layer(layer, NetworkLayer("tubal", rank=2))
        with pytest.raises(OptionError, match="density"):
            SparseLayer(density=2.0)
        with pytest.raises(OptionError, match=r"Tucker2 does not apply.*LowRankLayer"):
            compress_layer(nn.Embedding(9, 8), Tucker2(rank=(2, 2)))
        with pytest.raises(OptionError, match="SpatialSVD does not apply"):
            compress_layer(layer, SpatialSVD(rank=2))

    def test_a_module_of_another_kind(self) -> None:
        assert isinstance(compress_layer(nn.Conv1d(3, 4, 2), NetworkLayer("tt", rank=2)).module, FactoredConv)
