"""Convolutions of every kind, plain and transposed: a kernel, every option of which is kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tnkit.nn.forms import Convolution, KernelForm, bucket
from tnkit.nn.layers.layer_type import LayerType, dtype_of, with_values
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.specs import ChannelSVD, Execution, LayerSpec, Tucker2
from tnkit.nn.views import WeightView, kernel_view
from tnkit.registry import LAYERS

__all__ = ["ConvType", "FactoredConv"]

Ints = tuple[int, ...]
#: Patches are unfolded in pieces of about this many numbers.
PIECE = 1 << 22


class FactoredConv(FactoredModule[KernelForm]):
    """A convolution by factors in the place of torch's, with its face.

    Attributes:
        how: stride, padding, dilation and the rest, as the form takes them.

    Example:
        >>> import torch
        >>> from tnkit.nn import FactoredConv
        >>> from tnkit.nn.forms import Tucker2Form
        >>> layer = FactoredConv(Tucker2Form(1, 6, 4, (3, 3), 2, 3), padding="same")
        >>> layer(torch.zeros(1, 4, 8, 8)).shape, layer.weight.shape, layer.n_factor_params()
        (torch.Size([1, 6, 8, 8]), torch.Size([6, 4, 3, 3]), 78)
    """

    kind: ClassVar[str] = "FactoredConv"

    def __init__(
        self,
        form: KernelForm,
        *,
        stride: Ints | None = None,
        padding: Ints | str | None = None,
        dilation: Ints | None = None,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Ints | None = None,
        bias: bool = True,
        execution: Execution = "auto",
        dtype: torch.dtype | None = None,
    ) -> None:
        """A layer of zeros; layer types and loading fill it. Options that are not given do nothing."""
        g, d = form.groups, len(form.kernel)
        super().__init__(form, g * form.outs if bias else None, execution, dtype)
        self.in_channels, self.out_channels, self.groups, self.kernel_size = g * form.ins, g * form.outs, g, form.kernel
        self.stride, self.dilation = stride or (1,) * d, dilation or (1,) * d
        self.padding, self.output_padding = padding or (0,) * d, output_padding or (0,) * d
        self.padding_mode, self.transposed = padding_mode, transposed
        self.how = Convolution.of(self)

    @property
    def weight(self) -> Tensor:
        """The dense kernel, (o, i/g, *k), or (i, o/g, *k) where the layer is transposed."""
        blocks = self.form.dense(self.factors())
        return (blocks.transpose(1, 2) if self.transposed else blocks).flatten(0, 1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The layer's output; `output_size` as torch's transposed convolutions take it."""
        if output_size is None:
            return super().forward(input)
        return self._resized(input, output_size).forward(input)

    def _resized(self, x: Tensor, output_size: list[int]) -> FactoredConv:
        d = len(self.kernel_size)
        sizes = replace(self.how, output_padding=(0,) * d).out_size(tuple(x.shape[-d:]))
        extra = tuple(int(n) - m for n, m in zip(output_size[-d:], sizes, strict=True))
        if not self.transposed or any(e < 0 or e >= s for e, s in zip(extra, self.stride, strict=True)):
            raise ValueError(f"requested an output size of {output_size}, but sizes from {list(sizes)} are possible")
        twin = self.from_config({**self.config(), "output_padding": extra}, x.dtype)
        for name in (*self._parameters, *self._buffers):
            setattr(twin, name, getattr(self, name))
        return twin

    def forward_factored(self, x: Tensor) -> Tensor:
        """By the factors."""
        y = self.form.convolve(self.factors(), x, self.how)
        return y if self.bias is None else y + self.bias.reshape(-1, *self.form.ones())

    def forward_materialized(self, x: Tensor) -> Tensor:
        """By the dense kernel."""
        kernel = self.dense_weight(lambda: self.form.dense(self.factors()).flatten(0, 1))
        return self.how(x, kernel, self.groups, self.bias)

    def sample_size(self, x: Tensor) -> tuple[int, ...]:
        """Images in powers of two, and their size."""
        d = len(self.kernel_size)
        return (bucket(prod(x.shape[: -d - 1])), *x.shape[-d:])

    def face(self) -> dict[str, Any]:
        """The options."""
        return {
            "stride": list(self.stride),
            "padding": self.padding if isinstance(self.padding, str) else list(self.padding),
            "dilation": list(self.dilation),
            "padding_mode": self.padding_mode,
            "transposed": self.transposed,
            "output_padding": list(self.output_padding),
        }

    def extra_repr(self) -> str:
        """What print shows."""
        kernel = f"kernel_size={self.kernel_size}, groups={self.groups}"
        return f"{self.in_channels}, {self.out_channels}, {kernel}, {super().extra_repr()}"


class ConvType(LayerType):
    """One of torch's convolutions.

    Args:
        dense: its class.
        d: spatial axes.
        transposed: whether it is a transposed one.
    """

    module = FactoredConv
    readings = ("kernel", "channels", "patches")

    def __init__(self, dense: type[nn.Module], d: int, transposed: bool) -> None:
        self.name = dense.__name__.lower()  # type: ignore[misc]
        self.dense = dense  # type: ignore[misc]
        self.d, self.transposed = d, transposed

    def fits(self, layer: nn.Module) -> bool:
        """A compressed one of the same dimensions as well."""
        if isinstance(layer, FactoredConv):
            return (len(layer.kernel_size), layer.transposed) == (self.d, self.transposed)
        return super().fits(layer)

    def default(self, layer: Any) -> LayerSpec | None:
        """Tucker-2, and channel SVD for 1×1 and depthwise kernels."""
        single = layer.in_channels == layer.groups or layer.out_channels == layer.groups
        return ChannelSVD() if prod(layer.kernel_size) == 1 or single else Tucker2()

    def view(self, layer: Any, reading: str) -> WeightView:
        """(o, i, *k), (o, i, Πk) or (o, i·Πk) for each group."""
        return kernel_view(tuple(layer.weight.shape), layer.groups, reading, transposed=self.transposed)

    def rows_key(self, layer: Any, reading: str) -> Hashable:
        """Channels by groups, or patches that are alike where all options are."""
        return ("patches", layer.groups, Convolution.of(layer)) if reading == "patches" else ("channels", layer.groups)

    def rows(self, layer: Any, reading: str, x: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        """The channels of each pixel, or the unfolded patches, in pieces."""
        if reading != "patches":
            yield _pixels(x, layer.groups, self.d)
            return
        how, g = Convolution.of(layer), layer.groups
        images = x.reshape(-1, *x.shape[-self.d - 1 :])
        n = layer.in_channels // g * prod(how.kernel)
        per_image = max(1, how.n_positions(tuple(x.shape[-self.d :])) * n * g)
        for piece in images.split(max(1, PIECE // per_image)):
            patches = how.patches(piece.to(torch.float64))  # (N, *out, C, *k)
            yield patches.reshape(-1, g, n).transpose(0, 1)

    def output_rows(self, layer: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        """The channels of each pixel."""
        return _pixels(y, layer.groups, self.d)

    def positions(self, layer: Any, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
        """Pixels of the input and of the output, over all images."""
        if shape is None:
            return None
        images, sizes = prod(shape[: -self.d - 1]), shape[-self.d :]
        return images * prod(sizes), images * Convolution.of(layer).n_positions(sizes)

    def macs(self, layer: Any) -> tuple[int, int]:
        """A transposed convolution works at each position of its input."""
        numel = int(layer.weight.numel())
        return (numel, 0) if self.transposed else (0, numel)

    def empty(self, layer: Any, form: KernelForm, execution: Execution) -> FactoredModule[Any]:
        """FactoredConv."""
        how = Convolution.of(layer)
        return FactoredConv(
            form,
            stride=how.stride,
            padding=how.padding,
            dilation=how.dilation,
            padding_mode=how.padding_mode,
            transposed=how.transposed,
            output_padding=how.output_padding,
            bias=False,
            execution=execution,
            dtype=dtype_of(layer),
        )

    def restore(self, module: FactoredConv) -> nn.Module:
        """Torch's convolution with the materialised kernel."""
        weight, how = module.weight, module.how
        options: dict[str, Any] = {
            "stride": how.stride,
            "padding": how.padding,
            "dilation": how.dilation,
            "padding_mode": how.padding_mode,
            "groups": module.groups,
            "bias": module.bias is not None,
        }
        if self.transposed:
            options["output_padding"] = how.output_padding
        sizes = (module.in_channels, module.out_channels, how.kernel)
        dense = skip_init(self.dense, *sizes, **options, device=weight.device, dtype=weight.dtype)
        return with_values(dense, module, weight)


def _pixels(x: Tensor, groups: int, d: int) -> Tensor:
    """The channels of each pixel, (g, N, channels / g)."""
    width = x.shape[-d - 1] // groups
    return x.reshape(-1, groups, width, prod(x.shape[-d:])).permute(1, 0, 3, 2).reshape(groups, -1, width)


for _d, _dense, _transposed in (
    (1, nn.Conv1d, nn.ConvTranspose1d),
    (2, nn.Conv2d, nn.ConvTranspose2d),
    (3, nn.Conv3d, nn.ConvTranspose3d),
):
    LAYERS.register(_dense.__name__.lower(), ConvType(_dense, _d, False))
    LAYERS.register(_transposed.__name__.lower(), ConvType(_transposed, _d, True))
