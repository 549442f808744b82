"""FactoredConv: exact at full rank for every option of the convolution."""

import copy
from dataclasses import replace
from math import prod

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils import flop_counter

from tnkit.errors import OptionError, RankError
from tnkit.nn import (
    ChannelSVD,
    FactoredConv,
    LowRankLayer,
    NetworkLayer,
    SpatialSVD,
    Tucker2,
    calibrate,
    compress,
    compress_layer,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def full_specs(conv: nn.Conv2d, execution: str = "factored") -> list[Tucker2 | ChannelSVD]:
    o, i, k = conv.out_channels // conv.groups, conv.in_channels // conv.groups, prod(conv.kernel_size)
    svd = min(o, i * k)
    return [
        Tucker2(rank=(min(o, i * k), min(i, o * k)), execution=execution),
        ChannelSVD(rank=svd, pivoted=False, execution=execution),
        ChannelSVD(rank=svd, pivoted=True, execution=execution),
    ]


@given(
    channels=st.sampled_from([(3, 7, 1), (7, 3, 1), (4, 6, 2), (6, 6, 3), (5, 5, 5), (1, 1, 1)]),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 5)]),
    stride=st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 2)]),
    dilation=st.sampled_from([(1, 1), (2, 1)]),
    padding=st.sampled_from([(0, 0), (1, 2), "same", "valid"]),
    mode=st.sampled_from(["zeros", "reflect", "circular", "replicate"]),
    bias=st.booleans(),
    execution=st.sampled_from(["factored", "materialized", "auto"]),
    unbatched=st.booleans(),
    seed=st.integers(0, 99),
)
def test_exact_at_full_rank_for_every_option(
    channels: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int] | str,
    mode: str,
    bias: bool,
    execution: str,
    unbatched: bool,
    seed: int,
) -> None:
    assume(padding != "same" or stride == (1, 1))
    torch.manual_seed(seed)
    i, o, groups = channels
    options = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
    conv = nn.Conv2d(i, o, kernel, groups=groups, bias=bias, dtype=torch.float64, **options)
    x = torch.randn(*(() if unbatched else (2,)), i, 9, 11, dtype=torch.float64)
    for spec in full_specs(conv, execution):
        result = compress_layer(conv, spec)
        module = result.module
        assert torch.allclose(module(x), conv(x), atol=1e-9)
        assert torch.allclose(module.weight, conv.weight, atol=1e-9)
        assert torch.allclose(result.format.to_dense(), conv.weight, atol=1e-9)
        face = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        assert all(getattr(module, name) == getattr(conv, name) for name in face)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_report_and_the_format_count_what_is_there(groups: int) -> None:
    conv = nn.Conv2d(8, 12, 3, groups=groups)
    for spec in (Tucker2(rank=(4, 3)), ChannelSVD(rank=3, pivoted=False), ChannelSVD(rank=3, pivoted=True)):
        result = compress_layer(conv, spec)
        assert result.report.params_after == sum(p.numel() for p in result.module.parameters())
        pivots = groups * 3 * 3 if getattr(spec, "pivoted", False) else 0
        assert result.module.n_factor_params() == result.format.n_params - pivots
        assert result.format.shape == (12, 8 // groups, 3, 3)
        wrong = float((result.module.weight - conv.weight).detach().norm() / conv.weight.detach().norm())
        assert wrong <= result.report.rel_error * (1 + 1e-5)  # HOOI only improves on the HOSVD that is reported
        assert wrong >= result.report.rel_error * 0.7


def test_tucker_is_a_two_sided_truncation_and_channel_svd_the_best_one_sided() -> None:
    conv = nn.Conv2d(8, 12, 3, dtype=torch.float64)
    result = compress_layer(conv, ChannelSVD(rank=5))
    spectrum = torch.linalg.svdvals(conv.weight.detach().flatten(1))
    assert result.report.rel_error == pytest.approx(float(spectrum[5:].norm() / spectrum.norm()))


def test_the_patch_metric_is_the_output_error() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 10, 3, stride=(1, 2), padding=1, padding_mode="reflect", dtype=torch.float64)
    x = torch.randn(6, 4, 8, 8, dtype=torch.float64).cumsum(-1)
    stats = calibrate(conv, [x[:2], x[2:]], rules={"": ChannelSVD()})[""]
    result = compress_layer(conv, ChannelSVD(rank=4), gram=stats)
    bias = conv.bias[:, None, None]
    wrong = (result.module(x) - conv(x)).norm() / (conv(x) - bias).norm()
    assert float(wrong.detach()) == pytest.approx(result.report.rel_error, rel=1e-6)
    plain = compress_layer(conv, ChannelSVD(rank=4)).module
    assert (result.module(x) - conv(x)).norm() < (plain(x) - conv(x)).norm()
    x = torch.randn(6, 4, 8, 8, dtype=torch.float64) * torch.tensor([0.1, 5.0, 1.0, 0.1])[:, None, None]
    tucker, _ = compress(conv, None, calib=[x], rules={"": Tucker2(rank=(6, 2))})
    unweighted = compress_layer(conv, Tucker2(rank=(6, 2))).module
    assert (tucker(x) - conv(x)).norm() < (unweighted(x) - conv(x)).norm()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_patch_metric_is_the_output_error_for_every_convolution(d: int, transposed: bool, groups: int) -> None:
    torch.manual_seed(0)
    kinds = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
    options = {"stride": (2, 1, 3)[:d], "dilation": (2, 1, 1)[:d], "padding": 1, "groups": groups, "bias": False}
    more = {"output_padding": (1, 0, 2)[:d]} if transposed else {}
    conv = kinds[d][transposed](4, 6, (3, 2, 2)[:d], **options, **more, dtype=torch.float64)
    x = torch.randn(5, 4, *(6, 5, 4)[:d], dtype=torch.float64)
    stats = calibrate(conv, [x], rules={"": ChannelSVD()})[""]
    result = compress_layer(conv, ChannelSVD(rank=2), gram=stats)
    wrong = (result.module(x) - conv(x)).norm() / conv(x).norm()
    assert float(wrong.detach()) == pytest.approx(result.report.rel_error, rel=1e-6)
    if groups == 1:
        rows = conv(x).movedim(1, -1).reshape(-1, 6)
        assert stats.count == len(rows)


def test_full_rank_is_exact_with_a_singular_channel_gram_matrix() -> None:
    conv, x = nn.Conv2d(6, 5, 3, dtype=torch.float64), torch.randn(2, 6, 7, 7, dtype=torch.float64)
    gram = torch.zeros(6, 6, dtype=torch.float64)
    gram[:2, :2] = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    for spec in (Tucker2(rank=(5, 6)),):
        assert torch.allclose(compress_layer(conv, spec, gram=gram).module(x), conv(x), atol=1e-6)
    patches = torch.zeros(54, 54, dtype=torch.float64)
    patches[:9, :9] = torch.eye(9)
    assert torch.allclose(compress_layer(conv, ChannelSVD(rank=5), gram=patches).module(x), conv(x), atol=1e-8)


def test_the_stride_of_a_pointwise_kernel_goes_on_the_first_factor() -> None:
    conv, x, sizes = nn.Conv2d(8, 8, 1, stride=2), torch.randn(1, 8, 6, 6), []
    for spec in (Tucker2(rank=(2, 2), execution="factored"), ChannelSVD(rank=2, execution="factored")):
        module = compress_layer(conv, spec).module
        with flop_counter.FlopCounterMode(display=False) as counter:
            module(x)
        sizes.append(counter.get_total_flops())
    assert sizes == [2 * 9 * (8 * 2 + 2 * 2 + 2 * 8), 2 * 9 * (8 * 2 + 2 * 6)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_in_and_out(dtype: torch.dtype) -> None:
    conv, x = nn.Conv2d(4, 6, 3, dtype=dtype), torch.randn(2, 4, 7, 7, dtype=dtype)
    for spec in full_specs(conv):
        module = compress_layer(conv, spec).module
        assert module(x).dtype == dtype
        assert float((module(x) - conv(x)).detach().float().norm()) < 0.05 * float(conv(x).detach().float().norm())


@pytest.mark.parametrize("spec", [Tucker2(rank=(3, 2)), ChannelSVD(rank=2), ChannelSVD(rank=2, pivoted=False)])
def test_copies_export_and_compile(spec: Tucker2 | ChannelSVD) -> None:
    conv, x = nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), torch.randn(2, 4, 7, 7)
    module = compress_layer(conv, spec).module
    module.execution = "factored"
    expected = module(x)
    assert torch.equal(copy.deepcopy(module)(x), expected)
    fresh = FactoredConv.from_config(module.config(), torch.float32)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), expected)
    assert torch.allclose(torch.export.export(module, (x,)).module()(x), expected, atol=1e-6)
    assert torch.allclose(torch.compile(module, fullgraph=True, backend="eager")(x), expected, atol=1e-6)
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("transposed", [False, True])
def test_counted_multiplications_are_those_that_are_done(transposed: bool) -> None:
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(8, 12, 3, stride=2, bias=False)
    x = torch.randn(2, 8, 9, 9)
    specs = [Tucker2(rank=(4, 3)), ChannelSVD(rank=5, pivoted=False), NetworkLayer("tucker", rank=(4, 3, 2, 2))]
    for spec in [*specs, SpatialSVD(rank=3)]:
        small, report = compress(conv, None, calib=[x], rules={"": replace(spec, execution="factored")}, measure=False)
        with flop_counter.FlopCounterMode(display=False) as counter:
            small(x)
        done = counter.get_flop_counts()["Global"]
        flops = sum(n for op, n in done.items() if "convolution" in str(op))
        if not isinstance(spec, SpatialSVD):  # the first of the two is strided along one axis only
            assert report.layers[0].flops_after == flops
        else:
            assert report.layers[0].flops_after >= flops / 2
    assert report.layers[0].flops_before == 2 * conv.weight.numel() * (81 * 2 if transposed else 16 * 2)


def test_recompressing_a_compressed_convolution() -> None:
    once = compress_layer(nn.Conv2d(8, 12, 3), Tucker2(rank=(6, 5))).module
    again = compress_layer(once, ChannelSVD(rank=6)).module
    assert torch.allclose(again.weight, once.weight, atol=1e-5)


def test_ranks_that_are_not_there() -> None:
    conv = nn.Conv2d(4, 6, 3)
    with pytest.raises(RankError, match=r"\(6, 4\)"):
        compress_layer(conv, Tucker2(rank=(7, 2)))
    with pytest.raises(RankError, match="positive"):
        Tucker2(rank=(0, 2))
    with pytest.raises(RankError, match="positive"):
        Tucker2(rank=(3,))
    with pytest.raises(OptionError, match=r"ChannelSVD, .*Tucker2"):
        compress_layer(conv, LowRankLayer(rank=2))
