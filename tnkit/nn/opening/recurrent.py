"""nn.LSTM, nn.GRU and nn.RNN with each of their matrices as a linear layer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from tnkit.nn.forms.network import bucket
from tnkit.nn.forms.steps import is_traced
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.opening.base import OPENINGS, Memo, Opening, dense_linear, detached
from tnkit.nn.timing import race_ms

__all__ = ["OpenGRU", "OpenLSTM", "OpenRNN", "RecurrentOpening"]

COPIED = (
    "mode",
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
)
NAMES = re.compile(r"(weight|bias)_((?:ih|hh|hr)_l\d+(?:_reverse)?)")


class _OpenRecurrent(nn.RNNBase):
    """Linear layers `ih_l0`, `hh_l0`, `ih_l0_reverse` …, each of which may be compressed.

    It runs step by step with the factors, or makes the weights and runs torch's own loop; the first time for each shape
    both are timed and the faster one is kept. Packed sequences and traced code take torch's own loop.
    """

    closed_class: ClassVar[type[nn.RNNBase]]

    def __init__(self, closed: nn.RNNBase, parts: dict[str, nn.Module]) -> None:
        """From the closed layer's options and its matrices."""
        nn.Module.__init__(self)
        for name in COPIED:
            setattr(self, name, getattr(closed, name))
        if hasattr(closed, "nonlinearity"):
            self.nonlinearity = closed.nonlinearity
        self._flat_weights_names: list[str] = []
        self._flat_weight_refs = []
        self._all_weights: list[list[str]] = []
        self._faster: dict[tuple[Any, ...], bool] = {}
        for name, part in parts.items():
            self.add_module(name, part)

    def __getattr__(self, name: str) -> Any:
        """`weight_ih_l0` and its like: the dense weights and the biases of the parts."""
        found = NAMES.fullmatch(name)
        if found is not None and found[2] in self.__dict__.get("_modules", {}):
            return getattr(self._modules[found[2]], found[1])
        return super().__getattr__(name)

    def __getstate__(self) -> dict[str, Any]:
        """Plain: nothing is kept beside the parts."""
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The way back."""
        nn.Module.__setstate__(self, state)

    def suffixes(self) -> Iterator[str]:
        """Of the matrices' names, layer by layer and forwards first."""
        for layer in range(self.num_layers):
            yield f"l{layer}"
            if self.bidirectional:
                yield f"l{layer}_reverse"

    @property
    def _flat_weights(self) -> list[Any]:
        """Every weight and bias in torch's order, dense."""
        flat: list[Tensor] = []
        for suffix in self.suffixes():
            names = [f"weight_ih_{suffix}", f"weight_hh_{suffix}"]
            names += [f"bias_ih_{suffix}", f"bias_hh_{suffix}"] if self.bias else []
            names += [f"weight_hr_{suffix}"] if self.proj_size else []
            flat += [getattr(self, name).contiguous() for name in names]
        return flat

    @_flat_weights.setter
    def _flat_weights(self, value: object) -> None:
        """They are made when they are read."""

    @property
    def all_weights(self) -> list[list[Tensor]]:  # type: ignore[override]
        """The weights and biases of each layer and direction, dense."""
        flat, each = self._flat_weights, 2 + 2 * self.bias + bool(self.proj_size)
        return [flat[k : k + each] for k in range(0, len(flat), each)]

    def _init_flat_weights(self) -> None:
        """There is nothing to be kept."""

    def flatten_parameters(self) -> None:
        """There is nothing to be flattened."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the closed layer."""
        if not isinstance(input, PackedSequence) and not is_traced(input) and self._steps_are_faster(input, hx):
            return self._by_steps(input, hx)
        return self.closed_class.forward(self, input, hx)

    def _steps_are_faster(self, x: Tensor, hx: Any) -> bool:
        parts = list(self.children())
        if any(part._forward_hooks or part._forward_pre_hooks for part in parts):
            return True  # someone wants to see what the parts are given
        if not any(isinstance(part, FactoredModule) for part in parts):
            return False
        key = (*(bucket(n) for n in x.shape), x.dtype, x.device)
        if key not in self._faster:
            with torch.no_grad():
                calls = [lambda: self._by_steps(x, hx), lambda: self.closed_class.forward(self, x, hx)]
                steps, whole = map(min, race_ms(calls, x.device, runs=3, time_limit_s=0.1))
            self._faster[key] = steps <= whole
        return self._faster[key]

    def _by_steps(self, x: Tensor, hx: Any) -> Any:
        """Layer by layer, direction by direction, step by step."""
        batched, lstm = x.dim() == 3, self.mode == "LSTM"
        x = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
        count = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            h0 = x.new_zeros(count, x.shape[1], self.proj_size or self.hidden_size)
            c0 = x.new_zeros(count, x.shape[1], self.hidden_size)
        else:
            h0, c0 = hx if lstm else (hx, hx)
            h0, c0 = (h0, c0) if batched else (h0.unsqueeze(1), c0.unsqueeze(1))
        suffixes, last_h, last_c = list(self.suffixes()), [], []
        width = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            sides = []
            for k in range(layer * width, (layer + 1) * width):
                y, h, c = self._run(suffixes[k], x.flip(0) if k % width else x, h0[k], c0[k])
                sides.append(y.flip(0) if k % width else y)
                last_h.append(h)
                last_c.append(c)
            x = sides[0] if width == 1 else torch.cat(sides, dim=-1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout)
        h, c = torch.stack(last_h), torch.stack(last_c)
        if not batched:
            x, h, c = x.squeeze(1), h.squeeze(1), c.squeeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return (x, (h, c)) if lstm else (x, h)

    def _run(self, suffix: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One layer in one direction over (steps, batch, features)."""
        hidden, project = getattr(self, f"hh_{suffix}"), getattr(self, f"hr_{suffix}", None)
        outputs = []
        for gates in getattr(self, f"ih_{suffix}")(x):
            if self.mode == "LSTM":
                i, f, g, o = (gates + hidden(h)).chunk(4, dim=-1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                h = h if project is None else project(h)
            elif self.mode == "GRU":
                r, z, n = gates.chunk(3, dim=-1)
                hr, hz, hn = hidden(h).chunk(3, dim=-1)
                update = (z + hz).sigmoid()
                h = (1 - update) * (n + (r + hr).sigmoid() * hn).tanh() + update * h
            else:
                total = gates + hidden(h)
                h = total.tanh() if self.mode == "RNN_TANH" else total.relu()
            outputs.append(h)
        return torch.stack(outputs), h, c


class OpenLSTM(_OpenRecurrent, nn.LSTM):
    """nn.LSTM with its matrices as linear layers."""

    closed_class = nn.LSTM


class OpenGRU(_OpenRecurrent, nn.GRU):
    """nn.GRU with its matrices as linear layers."""

    closed_class = nn.GRU


class OpenRNN(_OpenRecurrent, nn.RNN):
    """nn.RNN with its matrices as linear layers."""

    closed_class = nn.RNN


class RecurrentOpening(Opening):
    """One of torch's recurrent layers.

    Args:
        dense: its class.
        open: that of the open one.
    """

    def __init__(self, dense: type[nn.RNNBase], open: type[_OpenRecurrent]) -> None:
        self.dense, self.open = dense, open  # type: ignore[misc]

    def opened(self, layer: nn.RNNBase, memo: Memo) -> nn.Module:
        """A linear layer for each matrix, with its very parameters."""
        parts: dict[str, nn.Module] = {}
        for names in layer._all_weights:
            for name in names:
                kind, _, rest = name.partition("_")
                if kind == "weight":
                    parts[rest] = dense_linear(getattr(layer, name), getattr(layer, f"bias_{rest}", None))
        made: nn.Module = self.open(layer, parts)
        return made

    def closed(self, layer: _OpenRecurrent) -> nn.Module:
        """The closed layer with dense weights."""
        first = next(layer.children()).weight
        assert isinstance(first, Tensor)
        options = {name: getattr(layer, name) for name in COPIED if name not in ("mode", "proj_size")}
        if layer.proj_size:
            options["proj_size"] = layer.proj_size
        if layer.mode.startswith("RNN"):
            options["nonlinearity"] = layer.mode.removeprefix("RNN_").lower()
        made: Any = self.dense(**options, device="meta", dtype=first.dtype).to_empty(device=first.device)
        for names in made._all_weights:
            for name in names:
                part = getattr(layer, name.partition("_")[2])
                setattr(made, name, detached(getattr(layer, name), part))
        closed: nn.Module = made
        return closed


OPENINGS.register("lstm", RecurrentOpening(nn.LSTM, OpenLSTM))
OPENINGS.register("gru", RecurrentOpening(nn.GRU, OpenGRU))
OPENINGS.register("rnn", RecurrentOpening(nn.RNN, OpenRNN))
