"""The fused fast path of torch's encoder layers reads dense weights: it is off where a layer inside is compressed."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.model import is_open

__all__ = ["settle_"]


def settle_(model: nn.Module) -> nn.Module:
    """Switch the fast path off where it would make dense weights at each call, and on again where it would not."""
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0 if _is_compressed(layer) else _activation(layer)
        elif isinstance(layer, nn.TransformerEncoder) and _is_compressed(layer):
            layer.use_nested_tensor = False  # nested tensors need the fast path
    return model


def _is_compressed(layer: nn.Module) -> bool:
    return any(isinstance(m, FactoredModule) or is_open(m) for m in layer.modules())


def _activation(layer: nn.TransformerEncoderLayer) -> int:
    """As the layer's own constructor finds it."""
    if layer.activation is F.relu or isinstance(layer.activation, nn.ReLU):
        return 1
    return 2 if layer.activation is F.gelu or isinstance(layer.activation, nn.GELU) else 0
