"""Completion: what `complete` gives.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> x = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 7.0))
    >>> x[2, 3] = np.nan
    >>> done = complete(x, "tt", rank=1)
    >>> round(float(done.filled[2, 3]), 6), done.status.ok
    (12.0, True)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tnkit.arrays import check_dense_size
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.formats import Format
from tnkit.formats.indexing import normalize_indices
from tnkit.solvers import Status, StepInfo

__all__ = ["Completion"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Completion:
    """The result of `complete`.

    Attributes:
        observations: what was known.
        tensor: the fitted format, or None where the method has none.
        dense: the completed array (engine dtype) where there is no format, otherwise None.
        heldout_error: relative error on observed entries that were held out, measured before everything was fitted; an
            estimate of the error on what is missing. None where too few are observed to hold some out.
        train_error: relative error of the fit on the observed entries (`filled` has none there).
        status: how it ended; its text says what to do where it is not ok.
        method: its name.
        why: one sentence on how format and method were chosen.
        elapsed_s: seconds in all.
        history: the steps; `error` is the held-out error where there is one.
        back: turns a tensor into the caller's kind of array.
        spread: standard deviations at (M, d) indices, where the method knows them; see `std`.
        function: values at (M, d) indices, where there is neither a format nor a dense array.
    """

    observations: Observations
    tensor: Format | None
    dense: Tensor | None
    heldout_error: float | None
    train_error: float
    status: Status
    method: str
    why: str
    elapsed_s: float
    history: tuple[StepInfo, ...]
    back: Callable[[Tensor], Any]
    spread: Callable[[Tensor], Tensor] | None = None
    function: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.observations.shape

    @property
    def filled(self) -> Any:
        """The whole array, in the caller's kind and dtype (integers become float64); what was observed is unchanged.

        It is made anew at each call.

        Raises:
            MemoryLimitError: it would not fit; nothing was allocated.
        """
        obs = self.observations
        check_dense_size(obs.shape, obs.values.dtype, obs.values.device, what="The completed array")
        model = self.dense if self.tensor is None else self.tensor.to_dense()
        if model is None:
            assert self.function is not None
            every = torch.cartesian_prod(*(torch.arange(n, device=obs.values.device) for n in obs.shape))
            model = self.function(every.reshape(-1, obs.ndim)).reshape(obs.shape)
        return self.back(obs.fill(_fitting(model, obs.values.dtype)))

    def predict(self, indices: Any) -> Any:
        """The model's values at some positions, without the dense array where there is a format.

        Args:
            indices: (N, d) whole numbers; negative ones count from the end.

        Returns:
            (N,) in the caller's kind and dtype. At observed positions this is the fit, not the observation.

        Raises:
            ShapeError, OptionError: indices that do not fit, or out of range.
        """
        if self.tensor is not None:
            values = self.tensor.at(indices)
        else:
            at = normalize_indices(indices, self.shape, self.observations.values.device)
            if self.function is not None:
                values = self.function(at)
            else:
                assert self.dense is not None
                values = self.dense[tuple(at.unbind(-1))]
        return self.back(_fitting(values, self.observations.values.dtype))

    def std(self, indices: Any) -> Any:
        """Standard deviations of what `predict` gives, where the method has them; the noise of the data is not in them.

        Args:
            indices: (N, d) whole numbers; negative ones count from the end.

        Returns:
            (N,) in the caller's kind and dtype.

        Raises:
            OptionError: a method without, or indices out of range.
            ShapeError: indices that do not fit.
        """
        if self.spread is None:
            raise OptionError(f'method "{self.method}" gives no standard deviations. Use method="funbat".')
        values = self.observations.values
        return self.back(self.spread(normalize_indices(indices, self.shape, values.device)).to(values.real))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tensor = self.tensor
        return {
            "shape": list(self.shape),
            "dtype": str(self.observations.values.dtype).removeprefix("torch."),
            "observed": self.observations.n,
            "observed_fraction": self.observations.fraction,
            "format": None if tensor is None else tensor.name,
            "ranks": None if tensor is None else list(tensor.ranks),
            "n_params": None if tensor is None else tensor.n_params,
            "heldout_error": self.heldout_error,
            "train_error": self.train_error,
            "status": self.status.name,
            "status_message": self.status.message,
            "ok": self.status.ok,
            "method": self.method,
            "why": self.why,
            "elapsed_s": self.elapsed_s,
            "history": [[s.step, s.error, s.elapsed_s] for s in self.history],
        }

    def explain(self) -> str:
        """What was done, why, and how far the answer can be trusted, in sentences.

        Example:
            >>> import numpy as np, tnkit as tk
            >>> x = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 7.0))
            >>> x[::3, 1] = np.nan
            >>> print(tk.complete(x, "tt", rank=1).explain().splitlines()[0])
            45 of 48 entries (93.8 %) were observed.
        """
        obs = self.observations
        total = round(obs.n / obs.fraction)
        lines = [f"{obs.n:,} of {total:,} entries ({100 * obs.fraction:.3g} %) were observed."]
        lines.append(f"Method {self.method}" + (f": {self.why}" if self.why else "."))
        if self.tensor is not None:
            lines.append(
                f"The answer is a {self.tensor.name} of ranks {self.tensor.ranks}, {self.tensor.n_params:,} numbers."
            )
        if self.heldout_error is None:
            lines.append("Nothing was held out, so how well it fills gaps was not measured.")
        else:
            lines.append(f"On observed entries that were held out its relative error was {self.heldout_error:.3g}.")
        lines.append(f"On all observed entries it is {self.train_error:.3g}.")
        lines.append(f"{self.status}.")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict())

    def __repr__(self) -> str:
        """A readable summary."""
        obs = self.observations
        share = f"{obs.n:,} of {obs.n / obs.fraction:,.0f} entries observed ({100 * obs.fraction:.3g} %)"
        held = "not measured" if self.heldout_error is None else f"{self.heldout_error:.3g}"
        lines = [
            f"Completion(shape={self.shape}, {share})",
            f"  relative error held out {held}, on the observed entries {self.train_error:.3g}",
            f"  method {self.method}: {self.why}" if self.why else f"  method {self.method}",
            f"  {self.status} ({self.elapsed_s:.3g} s" + (f", {len(self.history)} steps)" if self.history else ")"),
        ]
        return "\n".join([lines[0], *([f"  {self.tensor!r}"] if self.tensor is not None else []), *lines[1:]])


def _fitting(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else (t.real.to(dtype) if t.is_complex() and not dtype.is_complex else t.to(dtype))
