"""nn.Conv2d as Tucker-2 or channel SVD, every option of the convolution kept: one module, a static list of stages."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tnkit.arrays import HALF
from tnkit.formats import Format
from tnkit.nn.layers.module import FactoredModule, bucket, parameter
from tnkit.nn.layers.recipe import Recipe
from tnkit.nn.pivot import pivot_rows
from tnkit.nn.specs import ChannelSVD, Execution, LayerSpec, Tucker2
from tnkit.nn.stats import Metric
from tnkit.nn.views import WeightView, conv_matrix_view, conv_tensor_view
from tnkit.registry import LAYERS

__all__ = ["Conv2dChannelSVD", "Conv2dTucker2", "ConvStage", "FactoredConv2d"]

Scheme: TypeAlias = Literal["tucker2", "channel_svd"]
Pair: TypeAlias = tuple[int, int]
#: Patches are unfolded in pieces of about this many numbers.
PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class ConvStage:
    """One convolution of the plan.

    Attributes:
        factor: name of the parameter that is its kernel.
        spatial: whether it carries stride, padding, padding mode and dilation; the others are 1×1.
    """

    factor: str
    spatial: bool


@dataclass(frozen=True, slots=True)
class ConvOptions:
    """What nn.Conv2d was told, beside its channels."""

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    @staticmethod
    def of(layer: Any) -> ConvOptions:
        """The options of a layer that has the face of nn.Conv2d."""
        padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
        pairs = (tuple(layer.kernel_size), tuple(layer.stride), padding, tuple(layer.dilation))
        return ConvOptions(*pairs, layer.groups, layer.padding_mode)

    def pads(self) -> list[int]:
        """Left and right padding of the last axis, then of the one before, as F.pad takes it."""
        if self.padding == "valid":
            return [0, 0, 0, 0]
        found: list[int] = []
        for axis in (1, 0):
            if isinstance(self.padding, str):  # "same"
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                found += [total // 2, total - total // 2]
            else:
                found += [self.padding[axis]] * 2
        return found

    def padded(self, x: Tensor) -> Tensor:
        """The input with its border."""
        pads = self.pads()
        if not any(pads):
            return x
        return F.pad(x, pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution with these options."""
        if self.padding_mode == "zeros":
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(self.padded(x), weight, bias, self.stride, 0, self.dilation, self.groups)

    def out_positions(self, height: int, width: int) -> int:
        """How many output positions an image has."""
        right, bottom = self.pads()[:2], self.pads()[2:]
        sizes = (height + sum(bottom), width + sum(right))
        spans = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return prod((n - s) // step + 1 for n, s, step in zip(sizes, spans, self.stride, strict=True))


class FactoredConv2d(FactoredModule):
    """A convolution by factors in the place of nn.Conv2d, with its face.

    "tucker2": 1×1 (`first`) · k×k (`core`) · 1×1 (`last`); "channel_svd": k×k (`core`) · 1×1 (`last`). Stride, padding,
    padding mode and dilation go to the k×k stage; groups go to every stage.

    Attributes:
        scheme: which of the two.
        ranks: (R_o, R_i), or (r,).
        first: (g·R_i, i/g, 1, 1) or None.
        core: (g·R_o, R_i, *k), or (g·r, i/g, *k).
        last: (o, R, 1, 1); (o − g·r, r, 1, 1) where it is pivoted.
        order: where each output channel stands among pivots and others (an integer buffer), if pivoted.

    Example:
        >>> import torch
        >>> from tnkit.nn import FactoredConv2d
        >>> layer = FactoredConv2d(4, 6, (3, 3), scheme="tucker2", ranks=(2, 3), padding="same")
        >>> layer(torch.zeros(1, 4, 8, 8)).shape, layer.weight.shape, layer.n_factor_params()
        (torch.Size([1, 6, 8, 8]), torch.Size([6, 4, 3, 3]), 78)
    """

    kind: ClassVar[str] = "FactoredConv2d"
    first: nn.Parameter | None
    bias: nn.Parameter | None
    order: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        *,
        scheme: Scheme,
        ranks: tuple[int, ...],
        stride: Pair = (1, 1),
        padding: Pair | str = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        pivoted: bool = False,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer of zeros; recipes and loading fill it."""
        super().__init__(execution)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.padding_mode, self.transposed, self.output_padding = padding_mode, False, (0, 0)
        self.scheme, self.ranks, self.pivoted = scheme, ranks, pivoted
        self.options = ConvOptions.of(self)
        inner = in_channels // groups
        r_out, r_in = (ranks[0], inner) if scheme == "channel_svd" else ranks

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype))

        self.register_parameter("first", zeros(groups * r_in, inner, 1, 1) if scheme == "tucker2" else None)
        self.core = zeros(groups * r_out, r_in, *kernel_size)
        self.last = zeros(out_channels - (groups * r_out if pivoted else 0), r_out, 1, 1)
        self.register_parameter("bias", zeros(out_channels) if bias else None)
        if pivoted:
            self.register_buffer("order", torch.arange(out_channels))
        self.stages = _stages(scheme, kernel_size)

    @property
    def weight(self) -> Tensor:
        """The dense kernel (o, i/g, kh, kw)."""
        g, kernel = self.groups, self.kernel_size
        core = self.core.unflatten(0, (g, -1)).flatten(3)  # (g, R_o, R_i, k)
        if self.first is not None:
            core = torch.einsum("gack,gci->gaik", core, self.first.reshape(g, -1, self.in_channels // g))
        last = self.last.reshape(g, -1, core.shape[1])
        rows = torch.einsum("goa,gaik->goik", last, core).flatten(0, 1)
        if self.pivoted:
            rows = torch.cat([core.flatten(0, 1), rows]).index_select(0, self.order)
        weight: Tensor = rows.unflatten(2, kernel)
        return weight

    def forward_factored(self, x: Tensor) -> Tensor:
        """Stage by stage."""
        for stage in self.stages[:-1]:
            x = self._stage(stage, x, None)
        if not self.pivoted:
            return self._stage(self.stages[-1], x, self.bias)
        if self.last.shape[0] > 0:  # at rank o every channel is a pivot
            x = torch.cat([x, self._stage(self.stages[-1], x, None)], dim=-3)
        y = x.index_select(-3, self.order)
        return y if self.bias is None else y + self.bias[:, None, None]

    def _stage(self, stage: ConvStage, x: Tensor, bias: Tensor | None) -> Tensor:
        kernel = getattr(self, stage.factor)
        return (
            self.options.convolve(x, kernel, bias) if stage.spatial else F.conv2d(x, kernel, bias, groups=self.groups)
        )

    def forward_materialized(self, x: Tensor) -> Tensor:
        """By the dense kernel."""
        return self.options.convolve(x, self.weight, self.bias)

    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """Images in powers of two, and their size."""
        return (bucket(prod(x.shape[:-3])), *x.shape[-2:])

    def config(self) -> dict[str, Any]:
        """The structure."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.kernel_size),
            "stride": list(self.stride),
            "padding": self.padding if isinstance(self.padding, str) else list(self.padding),
            "dilation": list(self.dilation),
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "scheme": self.scheme,
            "ranks": list(self.ranks),
            "bias": self.bias is not None,
            "pivoted": self.pivoted,
            "execution": self.execution,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], dtype: torch.dtype) -> Self:
        """A layer of zeros of that structure."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls(**values, dtype=dtype)

    def extra_repr(self) -> str:
        """What print shows."""
        options = f"stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}"
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, scheme={self.scheme}"
        mode = "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode}"
        return f"{shape}, ranks={self.ranks}, {options}{mode}, bias={self.bias is not None}, execution={self.execution}"


def _stages(scheme: Scheme, kernel_size: Pair) -> tuple[ConvStage, ...]:
    if scheme == "channel_svd":
        return ConvStage("core", True), ConvStage("last", False)
    pointwise = kernel_size == (1, 1)  # then the stride goes on the first factor
    return ConvStage("first", pointwise), ConvStage("core", not pointwise), ConvStage("last", False)


def _pixels(x: Tensor, groups: int) -> Tensor:
    """The channels of each pixel, (g, N, channels / g)."""
    width = x.shape[-3] // groups
    return x.reshape(-1, groups, width, prod(x.shape[-2:])).permute(1, 0, 3, 2).reshape(groups, -1, width)


class _ConvRecipe(Recipe):
    dense = nn.Conv2d
    module = FactoredConv2d

    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The channels of each pixel."""
        return _pixels(y, layer.groups)

    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """Pixels of the input and of the output, over all images."""
        if shape is None:
            return None
        images, (height, width) = prod(shape[:-3]), shape[-2:]
        return images * height * width, images * ConvOptions.of(layer).out_positions(height, width)

    def restore(self, module: FactoredConv2d) -> nn.Module:
        """nn.Conv2d with the materialised kernel."""
        weight, o = module.weight.detach(), module.options
        sizes = (module.in_channels, module.out_channels, o.kernel_size)
        options = (o.stride, o.padding, o.dilation, o.groups, module.bias is not None, o.padding_mode)
        dense: nn.Conv2d = skip_init(nn.Conv2d, *sizes, *options, device=weight.device, dtype=weight.dtype)
        dense.weight = nn.Parameter(weight.clone(), module.core.requires_grad)
        if module.bias is not None:
            dense.bias = nn.Parameter(module.bias.detach().clone(), module.bias.requires_grad)
        return dense

    def _empty(
        self, layer: Any, scheme: Scheme, ranks: tuple[int, ...], execution: Execution, pivoted: bool
    ) -> FactoredConv2d:
        o = ConvOptions.of(layer)
        return FactoredConv2d(
            layer.in_channels,
            layer.out_channels,
            o.kernel_size,
            scheme=scheme,
            ranks=ranks,
            stride=o.stride,
            padding=o.padding,
            dilation=o.dilation,
            groups=o.groups,
            padding_mode=o.padding_mode,
            bias=False,
            pivoted=pivoted,
            execution=execution,
            dtype=layer.weight.dtype,
        )


class Conv2dTucker2(_ConvRecipe):
    """nn.Conv2d to 1×1 · k×k · 1×1."""

    name = "conv2d.tucker2"
    spec = Tucker2

    def default(self, layer: Any) -> LayerSpec | None:
        """For kernels larger than 1×1."""
        return Tucker2() if prod(layer.kernel_size) > 1 else None

    def resolve(self, layer: Any, spec: Tucker2) -> LayerSpec:
        """Nothing is left to the layer."""
        return spec

    def view(self, layer: Any) -> WeightView:
        """(o, i, k) for each group."""
        return conv_tensor_view(tuple(layer.weight.shape), layer.groups)

    def rows_key(self, layer: Any) -> Hashable:
        """Channels, by groups."""
        return ("channels", layer.groups)

    def rows(self, layer: Any, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The channels of each pixel."""
        yield _pixels(x, layer.groups)

    def build(self, layer: Any, spec: Tucker2, fitted: Format, metric: Metric) -> FactoredModule:
        """Core, output factor and input factor as kernels."""
        g, weight = layer.groups, layer.weight
        core, u, v = (t.reshape(g, *t.shape[-n:]) for t, n in zip(fitted.tensors(), (3, 2, 2), strict=True))
        ranks = (core.shape[1], core.shape[2])
        module = self._empty(layer, "tucker2", ranks, spec.execution, False)
        module.first = parameter(v.reshape(module.first.shape), weight)  # type: ignore[union-attr]
        module.core = parameter(core.reshape(module.core.shape), weight)
        module.last = parameter(u.reshape(module.last.shape), weight)
        module.bias = None if layer.bias is None else parameter(layer.bias, layer.bias)
        return module


class Conv2dChannelSVD(_ConvRecipe):
    """nn.Conv2d to k×k · 1×1."""

    name = "conv2d.channel_svd"
    spec = ChannelSVD

    def default(self, layer: Any) -> LayerSpec | None:
        """For 1×1 kernels."""
        return ChannelSVD() if prod(layer.kernel_size) == 1 else None

    def resolve(self, layer: Any, spec: ChannelSVD) -> LayerSpec:
        """Pivoted unless the weight is of a half type."""
        return spec if spec.pivoted is not None else replace(spec, pivoted=layer.weight.dtype not in HALF)

    def view(self, layer: Any) -> WeightView:
        """(o, i·Πk) for each group."""
        return conv_matrix_view(tuple(layer.weight.shape), layer.groups)

    def rows_key(self, layer: Any) -> Hashable:
        """Patches are alike where all options are."""
        return ("patches", ConvOptions.of(layer))

    def rows(self, layer: Any, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The unfolded patches, in pieces."""
        options = ConvOptions.of(layer)
        g, n = layer.groups, prod(layer.weight.shape[1:])
        images = x.reshape(-1, *x.shape[-3:])
        per_image = max(1, options.out_positions(*x.shape[-2:]) * n * g)
        for piece in images.split(max(1, PIECE // per_image)):
            padded = options.padded(piece.to(torch.float64))
            patches = F.unfold(padded, options.kernel_size, options.dilation, 0, options.stride)
            yield patches.unflatten(1, (g, n)).permute(1, 0, 3, 2).reshape(g, -1, n)

    def build(self, layer: Any, spec: ChannelSVD, fitted: Format, metric: Metric) -> FactoredModule:
        """Right factor as the k×k kernel, left factor as the 1×1; with pivots, only the other rows of it."""
        g, weight = layer.groups, layer.weight
        left, right = (t.reshape(g, *t.shape[-2:]) for t in fitted.tensors())
        module = self._empty(layer, "channel_svd", (left.shape[2],), spec.execution, bool(spec.pivoted))
        if spec.pivoted:
            left, right, module.order = _pivoted(left, right)
        module.core = parameter(right.reshape(module.core.shape), weight)
        module.last = parameter(left.reshape(module.last.shape), weight)
        module.bias = None if layer.bias is None else parameter(layer.bias, layer.bias)
        return module


def _pivoted(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C and pivot rows for each group, and where each of the o channels stands in (all pivots, all others)."""
    g, m, r = left.shape
    cs, kept, places = [], [], torch.empty(g, m, dtype=torch.long, device=left.device)
    for k in range(g):
        rows, others, c = pivot_rows(left[k])
        cs.append(c)
        kept.append(left[k][rows] @ right[k])
        places[k, rows] = torch.arange(r, device=left.device) + k * r
        places[k, others] = torch.arange(m - r, device=left.device) + g * r + k * (m - r)
    return torch.stack(cs), torch.stack(kept), places.flatten()


LAYERS.register(Conv2dTucker2.name, Conv2dTucker2())
LAYERS.register(Conv2dChannelSVD.name, Conv2dChannelSVD())
