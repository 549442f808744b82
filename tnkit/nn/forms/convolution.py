"""Convolution: stride, padding, dilation, direction and the rest, on any number of spatial axes, or on some of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional as F

__all__ = ["Convolution"]

FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, slots=True)
class Convolution:
    """What a convolution was told, beside its channels and groups.

    Attributes:
        kernel: spatial sizes.
        stride: of each axis.
        padding: of each axis, or "same" or "valid".
        dilation: of each axis.
        padding_mode: as torch names it.
        transposed: whether it is the transpose of a convolution.
        output_padding: of each axis, where it is transposed.

    Example:
        >>> Convolution((3, 3), (1, 2), (1, 0), (1, 1)).out_size((8, 9))
        (8, 4)
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @staticmethod
    def of(layer: Any) -> Convolution:
        """The options of a layer that has the face of torch's convolutions."""
        padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
        shape = (tuple(layer.kernel_size), tuple(layer.stride), padding, tuple(layer.dilation))
        return Convolution(*shape, layer.padding_mode, layer.transposed, tuple(layer.output_padding))

    def along(self, axes: tuple[int, ...]) -> Convolution:
        """The same on some of the axes; nothing is done on the others."""

        def only(values: tuple[int, ...], idle: int) -> tuple[int, ...]:
            return tuple(v if k in axes else idle for k, v in enumerate(values))

        padding = self.padding if isinstance(self.padding, str) else only(self.padding, 0)
        return replace(
            self,
            kernel=only(self.kernel, 1),
            stride=only(self.stride, 1),
            padding=padding,
            dilation=only(self.dilation, 1),
            output_padding=only(self.output_padding, 0),
        )

    def __call__(self, x: Tensor, weight: Tensor, groups: int, bias: Tensor | None = None) -> Tensor:
        """Convolve.

        Args:
            x: (N, C, *sizes) or (C, *sizes).
            weight: (out, in / groups, *kernel), also where it is transposed.
            groups: number of groups.
            bias: (out,) or None.
        """
        d = len(self.kernel)
        if self.transposed:
            turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            assert not isinstance(self.padding, str)  # torch has no such transposed convolution
            return TRANSPOSED[d](x, turned, bias, self.stride, self.padding, self.output_padding, groups, self.dilation)
        if self.padding_mode == "zeros":
            return FORWARD[d](x, weight, bias, self.stride, self.padding, self.dilation, groups)
        return FORWARD[d](self.padded(x), weight, bias, self.stride, 0, self.dilation, groups)

    def pads(self) -> list[int]:
        """Left and right padding of the last axis, then of the one before, as F.pad takes it."""
        d = len(self.kernel)
        found: list[int] = []
        for axis in reversed(range(d)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel[axis] - 1)
                found += [total // 2, total - total // 2]
            else:
                found += [0 if isinstance(self.padding, str) else self.padding[axis]] * 2
        return found

    def padded(self, x: Tensor) -> Tensor:
        """The input with its border."""
        pads = self.pads()
        if not any(pads):
            return x
        if self.padding_mode == "zeros":
            return F.pad(x, pads)
        lead = x.shape[: -len(self.kernel)]  # F.pad takes other modes for batched input only
        flat = x.reshape(-1, 1, *x.shape[-len(self.kernel) :])
        wide = F.pad(flat, pads, mode=self.padding_mode)
        return wide.reshape(*lead, *wide.shape[2:])

    def out_size(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial sizes of the output."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        pads = self.pads()
        total = [pads[2 * k] + pads[2 * k + 1] for k in reversed(range(len(sizes)))]
        if self.transposed:
            parts = zip(sizes, self.stride, total, spans, self.output_padding, strict=True)
            return tuple((n - 1) * step - pad + span + out for n, step, pad, span, out in parts)
        parts4 = zip(sizes, total, spans, self.stride, strict=True)
        return tuple((n + pad - span) // step + 1 for n, pad, span, step in parts4)

    def patches(self, x: Tensor) -> Tensor:
        """What the kernel sees at each output position.

        Args:
            x: (N, C, *sizes).

        Returns:
            (N, *out sizes, C, *kernel).
        """
        d = len(self.kernel)
        if self.transposed:
            return self._as_forward().patches(self._spread(x)).flip(tuple(range(-d, 0)))
        x = self.padded(x)
        for axis in range(d):
            span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            x = x.unfold(2 + axis, span, self.stride[axis])[..., :: self.dilation[axis]]
        return x.movedim(1, 1 + d)

    def _spread(self, x: Tensor) -> Tensor:
        """The input with zeros in between and around it, of which the transposed convolution is a plain one."""
        d = len(self.kernel)
        sizes = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride, strict=True))
        wide = x.new_zeros(*x.shape[:2], *sizes)
        spread = wide
        for axis, step in enumerate(self.stride):
            spread = spread.unfold(2 + axis, 1, step).squeeze(-1)
        spread.copy_(x)
        assert not isinstance(self.padding, str)
        around: list[int] = []
        for axis in reversed(range(d)):
            border = self.dilation[axis] * (self.kernel[axis] - 1) - self.padding[axis]
            around += [border, border + self.output_padding[axis]]
        return F.pad(wide, around)

    def _as_forward(self) -> Convolution:
        ones = (1,) * len(self.kernel)
        return Convolution(self.kernel, ones, (0,) * len(ones), self.dilation)

    def n_positions(self, sizes: tuple[int, ...]) -> int:
        """How many output positions an image of these sizes has."""
        return prod(self.out_size(sizes))
