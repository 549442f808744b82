"""nn.MultiheadAttention with its in-projection as three linear layers, and an out-projection that is called."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from tnkit.nn.opening.base import OPENINGS, Memo, Opening, dense_linear, detached, part_of

__all__ = ["AttentionOpening", "OpenAttention"]

COPIED = ("embed_dim", "kdim", "vdim", "num_heads", "dropout", "batch_first", "head_dim", "add_zero_attn")


class OpenAttention(nn.MultiheadAttention):
    """Attention with the linear layers `q_proj`, `k_proj`, `v_proj` and `out_proj`, each of which may be compressed.

    It takes the place of nn.MultiheadAttention, with its face. The fused fast path of nn.TransformerEncoderLayer reads
    dense weights; it is switched off here, since it would make them at each call.
    """

    def __init__(self, closed: nn.MultiheadAttention, projections: dict[str, nn.Module]) -> None:
        """From the closed layer's options and its four projections."""
        nn.Module.__init__(self)
        for name in COPIED:
            setattr(self, name, getattr(closed, name))
        self._qkv_same_embed_dim = False
        self.q_proj, self.k_proj, self.v_proj = (projections[name] for name in ("q_proj", "k_proj", "v_proj"))
        self.out_proj = projections["out_proj"]  # type: ignore[assignment]
        self.bias_k, self.bias_v = closed.bias_k, closed.bias_v

    @property
    def _same_width(self) -> bool:
        return bool(self.kdim == self.embed_dim and self.vdim == self.embed_dim)

    @property
    def in_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """The dense packed in-projection, (3·embed_dim, embed_dim); None where keys or values have another width."""
        parts: Any = [layer.weight for layer in (self.q_proj, self.k_proj, self.v_proj)]
        return torch.cat(parts) if self._same_width else None

    @property
    def in_proj_bias(self) -> Tensor | None:  # type: ignore[override]
        """The packed bias; None if there is none."""
        parts: Any = [layer.bias for layer in (self.q_proj, self.k_proj, self.v_proj)]
        return None if parts[0] is None else torch.cat(parts)

    @property
    def q_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """The dense weight, where the projections are not packed."""
        return None if self._same_width else self.q_proj.weight  # type: ignore[return-value]

    @property
    def k_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """The dense weight, where the projections are not packed."""
        return None if self._same_width else self.k_proj.weight  # type: ignore[return-value]

    @property
    def v_proj_weight(self) -> Tensor | None:  # type: ignore[override]
        """The dense weight, where the projections are not packed."""
        return None if self._same_width else self.v_proj.weight  # type: ignore[return-value]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.

        Raises:
            RuntimeError: `is_causal` without `attn_mask`, as there.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        query, key, value = self._batch_first((query, key, value), batched)
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask[None]
        b, steps, e = query.shape
        k, v = self.k_proj(key), self.v_proj(value)
        extra = (self.bias_k is not None) + bool(self.add_zero_attn)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(b, 1, e)], dim=1)
            v = torch.cat([v, self.bias_v.expand(b, 1, e)], dim=1)
        q, k, v = (self._heads(t) for t in (self.q_proj(query), k, v))
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if is_causal and key_padding_mask is None and not need_weights and not extra:
            out = F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True)
        else:
            mask = self._mask(attn_mask, key_padding_mask, q, extra)
            if need_weights:
                scores = (q / sqrt(self.head_dim)) @ k.mT
                weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
                weights = F.dropout(weights, dropout) if dropout > 0 else weights
                out = weights @ v
            else:
                out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = self.out_proj(out.transpose(1, 2).reshape(b, steps, e))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _batch_first(self, tensors: tuple[Tensor, Tensor, Tensor], batched: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, step, feature); tensors that were one stay one, so that calibration sees it once."""
        q, k, v = tensors
        if batched and self.batch_first:
            return tensors

        def turned(t: Tensor) -> Tensor:
            return t.transpose(0, 1) if batched else t[None]

        first = turned(q)
        second = first if k is q else turned(k)
        return first, second, first if v is q else second if v is k else turned(v)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn: Tensor | None, padding: Tensor | None, q: Tensor, extra: int) -> Tensor | None:
        """Both masks as one that is added to the scores, (batch or 1, heads or 1, steps or 1, keys)."""
        total = None
        if attn is not None:
            mask = _additive(attn, q.dtype)
            total = mask if mask.ndim == 2 else mask.reshape(-1, self.num_heads, *mask.shape[1:])
        if padding is not None:
            other = _additive(padding, q.dtype)[:, None, None]
            total = other if total is None else total + other
        return total if total is None or not extra else F.pad(total, (0, extra))


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


class AttentionOpening(Opening):
    """nn.MultiheadAttention."""

    dense = nn.MultiheadAttention
    open = OpenAttention

    def opened(self, layer: nn.MultiheadAttention, memo: Memo) -> nn.Module:
        """Three linear layers over the packed weight's memory."""
        e = layer.embed_dim
        projections: dict[str, nn.Module] = {"out_proj": layer.out_proj}
        for k, name in enumerate(("q_proj", "k_proj", "v_proj")):
            if layer._qkv_same_embed_dim:
                weight = part_of(layer.in_proj_weight, k * e, (k + 1) * e, memo)
            else:
                weight = getattr(layer, f"{name}_weight")
            bias = layer.in_proj_bias
            part = None if bias is None else part_of(bias, k * e, (k + 1) * e, memo)
            projections[name] = dense_linear(weight, part)
        return OpenAttention(layer, projections)

    def closed(self, layer: OpenAttention) -> nn.Module:
        """The packed weight, made of the projections'."""
        weight, bias = layer.out_proj.weight, layer.in_proj_bias
        options: dict[str, Any] = {
            "dropout": layer.dropout,
            "bias": bias is not None,
            "add_bias_kv": layer.bias_k is not None,
            "add_zero_attn": layer.add_zero_attn,
            "kdim": layer.kdim,
            "vdim": layer.vdim,
            "batch_first": layer.batch_first,
        }
        made: nn.MultiheadAttention = skip_init(
            nn.MultiheadAttention, layer.embed_dim, layer.num_heads, **options, device=weight.device, dtype=weight.dtype
        )
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            value = getattr(layer, name)
            if value is not None:
                setattr(made, name, detached(value, layer))
        made.out_proj.weight = detached(weight, layer.out_proj)
        if layer.out_proj.bias is not None:
            made.out_proj.bias = detached(layer.out_proj.bias, layer.out_proj)
        if layer.bias_k is not None and layer.bias_v is not None:
            made.bias_k, made.bias_v = detached(layer.bias_k, layer), detached(layer.bias_v, layer)
        return made


OPENINGS.register("attention", AttentionOpening())
