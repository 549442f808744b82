"""Streams: a train or Tucker tensor of slabs that come one after the other, with eps kept for all of them together.

Example:
    >>> import torch, tnkit as tk
    >>> x = tk.random_format("tt", (30, 8, 9), 3, rng=0).to_dense()
    >>> stream = tk.StreamingTT(eps=1e-3)
    >>> for slab in x.split(10):
    ...     stream.update(slab)
    >>> stream.n_seen, stream.tensor.shape, stream.rel_error <= 1e-3, tk.error(x, stream.tensor) <= 1e-3
    (30, (30, 8, 9), True, True)
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import frexp, isfinite, sqrt
from numbers import Real
from typing import ClassVar, Self

import torch
from torch import Tensor

from tnkit.arrays import ArrayLike, as_tensor, machine_eps, require_finite
from tnkit.decompose.bases import Labelled
from tnkit.decompose.run import SAFE_NORMS, error_floor
from tnkit.decompose.stream_state import StreamState
from tnkit.errors import DataError, DTypeError, FileFormatError, OptionError, ShapeError
from tnkit.files import KIND, PathLikeStr, read_safetensors, write_safetensors
from tnkit.formats import Format, FormatSpec, Layout, RankLike, TTSpec, TuckerSpec, resolve_ranks
from tnkit.formats.trees import tree_of
from tnkit.linalg import energy
from tnkit.report import FitReport
from tnkit.rng import RngLike, generator
from tnkit.solvers import DIRECT, EPS_NOT_REACHED, FLOOR

__all__ = ["Streaming", "StreamingTT", "StreamingTucker"]

_VERSION = "1"
_LONG = 2**40  # a size of the streaming mode that limits no rank


class Streaming(ABC):
    """A stateful accumulator: `update` changes it; `tensor` and `report` give immutable values of what was seen so far.

    It keeps the compressed state only: the nodes of the other modes, and one row for each entry of the streaming mode.

    Args:
        eps: relative Frobenius error of everything that was seen so far, at any time.
        rank: upper limits of the ranks, an int, a sequence or a mapping by bond; with eps the limits come first, and
            the status of the report says so where eps is missed. At least one of eps and rank is given.
        mode: along which the slabs come; negative ones count from the end.
        rng: a seed or a generator, for sketches.

    Raises:
        OptionError: neither eps nor rank, or an eps that is none.
    """

    spec: ClassVar[FormatSpec]
    name: ClassVar[str]

    def __init__(
        self, *, eps: float | None = None, rank: RankLike | None = None, mode: int = 0, rng: RngLike = 0
    ) -> None:
        if eps is None and rank is None:
            raise OptionError(f"{type(self).__name__} needs eps= or rank= (or both). Example: eps=1e-2.")
        if eps is not None and (isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < float("inf")):
            raise OptionError(f"eps={eps!r} is not a relative error. Give a number of 0 or more, such as 1e-2.")
        if isinstance(rank, str) or (isinstance(rank, Real) and not isinstance(rank, int)):
            raise OptionError(f"rank={rank!r}: a stream has no size of which this is a part. Give ints.")
        self.eps = None if eps is None else float(eps)
        self._rank, self._mode, self._rng = rank, mode, rng
        self._state: StreamState | None = None
        self._others: tuple[int, ...] = ()  # the sizes of the other modes
        self._unit = 1.0  # what the state is in units of
        self._elapsed_s = 0.0
        self._found: tuple[Format, float, str] | None = None

    @staticmethod
    @abstractmethod
    def _root(mode: int) -> int:
        """The node that has this mode."""

    def update(self, slab: ArrayLike) -> None:
        """Take the next slab.

        Args:
            slab: an array whose size along the streaming mode is its thickness, 1 or more; the other sizes are those of
                the first slab. It is not changed.

        Raises:
            ShapeError: other sizes than the first slab's.
            DTypeError: complex values in a stream that began real.
            DataError: NaN or infinite values, or no entries.

        Cost:
            2 N r for the projection of N entries, and a split of what the bases miss.
        """
        begun = time.perf_counter()
        x = as_tensor(slab, name="slab").tensor.detach()
        norm = require_finite(x, name="slab")
        if self._state is None:
            self._begin_(x)
        state = self._state
        assert state is not None
        self._check(x, state)
        x = x.to(state.like)
        x = self._in_units_(x, norm)
        state.norm2 += energy(x)
        labels = tree_labels(state)
        floor2 = self._floor2()
        allowed2 = (
            None if self.eps is None else max(self.eps**2 * state.norm2 * (1 - 1e-6) - floor2 - state.error2, 0.0)
        )
        if allowed2 is not None and allowed2 <= floor2:
            allowed2 = floor2
        caps = self._caps()
        wide = {bond: 2 * cap + 8 for bond, cap in caps.items()}
        state.push_(Labelled(x, labels), wide, allowed2, floor2, generator(self._rng, x.device))
        full = any(state.sizes[bond] >= wide[bond] for bond in caps)
        if (full or state.n_entries > 2 * state.settled) and not state.empty and state.norm2 > 0:
            state.truncate_(self.eps, floor2, caps)
        self._found = None
        self._elapsed_s += time.perf_counter() - begun

    push = update

    @property
    def n_seen(self) -> int:
        """How many entries of the streaming mode were seen."""
        return 0 if self._state is None else self._state.n_rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of everything that was seen.

        Raises:
            DataError: nothing was seen.
        """
        self._seen()
        mode = self._axis(len(self._others) + 1)
        return (*self._others[:mode], self.n_seen, *self._others[mode:])

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return 0 if self._state is None else self._state.n_entries * self._state.like.element_size()

    @property
    def tensor(self) -> Format:
        """Everything that was seen so far, truncated once more to what eps and rank allow; the state stays as it is.

        Raises:
            DataError: nothing was seen.
        """
        return self._rounded()[0]

    @property
    def rel_error(self) -> float:
        """The relative error of `tensor` against everything that was seen (see `error_kind`).

        Raises:
            DataError: nothing was seen.
        """
        return self._rounded()[1]

    @property
    def error_kind(self) -> str:
        """What `rel_error` is: "exact", or "bound" where the slabs, which are gone, would be needed to know it better.

        Raises:
            DataError: nothing was seen.
        """
        return self._rounded()[2]

    def report(self) -> FitReport:
        """The tensor with its error and status.

        Raises:
            DataError: nothing was seen.
        """
        begun = time.perf_counter()
        value, error, kind = self._rounded()
        status = DIRECT
        if self.eps is not None and error > self.eps * (1 + 1e-9):
            status = FLOOR if error <= max(self.eps, error_floor(value.dtype, value.ndim)) else EPS_NOT_REACHED
        asked = ", ".join(f"{k}={v}" for k, v in (("eps", self.eps), ("rank", self._rank)) if v is not None)
        why = f"{self.n_seen} entries of mode {self._mode} seen in slabs"
        elapsed = self._elapsed_s + time.perf_counter() - begun
        return FitReport(value, error, kind, status, self.name, why, elapsed, (), asked)

    def save(self, path: PathLikeStr) -> None:
        """Write the whole state to a safetensors file, to go on from there with `load`.

        Raises:
            FileFormatError: the file cannot be written; nothing is half-written.
            DataError: nothing was seen.
        """
        state = self._seen()
        tensors = {f"basis.{k}": step.basis for k, step in enumerate(state.steps)}
        tensors |= {f"rows.{k}": rows for k, rows in enumerate(state.rows)}
        about = {
            "class": type(self).__name__,
            "eps": self.eps,
            "rank": dict(self._rank) if isinstance(self._rank, Mapping) else self._rank,
            "mode": self._mode,
            "others": self._others,
            "unit": self._unit.hex(),
            "dtype": str(state.like.dtype).removeprefix("torch."),
            "sums": [v.hex() for v in (state.norm2, state.loose, state.tight2)],
            "counts": [state.n_loose, state.settled, state.exact, len(state.rows)],
        }
        plain = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in tensors.items()}
        write_safetensors(path, plain, {KIND: "stream", "version": _VERSION, "stream": json.dumps(about)})

    @classmethod
    def load(cls, path: PathLikeStr, *, device: torch.device | str = "cpu", rng: RngLike = 0) -> Self:
        """The stream that `save` wrote.

        Args:
            path: the file.
            device: where its tensors are put.
            rng: as for the class; it is not stored.

        Raises:
            FileFormatError: no such file, or not one of such a stream.
        """
        tensors, metadata = read_safetensors(path, device)
        try:
            if metadata.get(KIND) != "stream" or metadata.get("version") != _VERSION:
                raise ValueError(f"it holds {metadata.get(KIND, 'plain tensors')!r}")
            about = json.loads(metadata["stream"])
            if about["class"] != cls.__name__:
                raise ValueError(f"it holds a {about['class']}")
            rank = tuple(about["rank"]) if isinstance(about["rank"], list) else about["rank"]
            stream = cls(eps=about["eps"], rank=rank, mode=about["mode"], rng=rng)
            dtype = getattr(torch, about["dtype"])
            own = {k: t.clone() for k, t in tensors.items()}  # aligned as tensors are, which a file is not
            read = {k: torch.view_as_complex(t) if dtype.is_complex else t for k, t in own.items()}
            stream._others, stream._unit = tuple(about["others"]), float.fromhex(about["unit"])
            state = stream._new_state(torch.empty(0, dtype=dtype, device=device))
            state.norm2, state.loose, state.tight2 = (float.fromhex(v) for v in about["sums"])
            state.n_loose, state.settled, state.exact, pieces = about["counts"]
            for k, step in enumerate(state.steps):
                state.steps[k] = type(step)(step.node, step.below, step.bond, read[f"basis.{k}"])
                state.sizes[step.bond] = state.steps[k].rank
            state.rows = [read[f"rows.{k}"] for k in range(pieces)]
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise FileFormatError(f"{path}: is no saved {cls.__name__} ({error}). Write it with .save(path).") from None
        stream._state = state
        return stream

    def __repr__(self) -> str:
        """What was asked and seen."""
        seen = f"shape {self.shape}, {self.nbytes:,} bytes kept" if self._state is not None else "nothing seen"
        return f"{type(self).__name__}(eps={self.eps}, rank={self._rank}, mode={self._mode}; {seen})"

    # -- inside

    def _axis(self, ndim: int) -> int:
        if not -ndim <= self._mode < ndim:
            raise ShapeError(f"mode={self._mode} is none of the {ndim} modes of the slabs. Use {-ndim} … {ndim - 1}.")
        return self._mode % ndim

    def _layout(self, rows: int) -> Layout:
        mode = self._axis(len(self._others) + 1)
        return self.spec.layout((*self._others[:mode], rows, *self._others[mode:]))

    def _begin_(self, x: Tensor) -> None:
        mode = self._axis(x.ndim)
        self._others = (*x.shape[:mode], *x.shape[mode + 1 :])
        if self._rank is not None:
            resolve_ranks(self._layout(_LONG), self._rank)
        self._state = self._new_state(x)

    def _new_state(self, like: Tensor) -> StreamState:
        layout = self._layout(1)
        mode = self._axis(len(self._others) + 1)
        modes = layout.topology.output
        sizes = {label: layout.sizes[label] for k, label in enumerate(modes) if k != mode}
        return StreamState(tree_of(layout.topology), self._root(mode), layout.bonds, modes[mode], sizes, like)

    def _check(self, x: Tensor, state: StreamState) -> None:
        mode = self._axis(len(self._others) + 1)
        if x.ndim != len(self._others) + 1 or (*x.shape[:mode], *x.shape[mode + 1 :]) != self._others:
            wanted = ", ".join(map(str, (*self._others[:mode], "any", *self._others[mode:])))
            raise ShapeError(f"A slab of shape {tuple(x.shape)} does not go on the stream of slabs ({wanted}).")
        if x.is_complex() and not state.like.is_complex():
            raise DTypeError(
                f"The stream began with {state.like.dtype}, and this slab is {x.dtype}. Begin with complex."
            )

    def _caps(self) -> dict[str, int]:
        layout = self._layout(_LONG)
        ranks = layout.caps if self._rank is None else resolve_ranks(layout, self._rank)
        return dict(zip(layout.bonds, ranks, strict=True))

    def _floor2(self) -> float:
        state = self._seen()
        return (8.0 * machine_eps(state.like.dtype)) ** 2 * state.norm2

    def _in_units_(self, x: Tensor, norm: float) -> Tensor:
        """The slab divided by the unit, which is raised first where the slab's square would leave the range."""
        state = self._seen()
        low, high = SAFE_NORMS[x.dtype]
        first = state.norm2 == 0.0
        if isfinite(norm) and norm / self._unit <= high and (norm >= low if first else True):
            return x if self._unit == 1.0 else x / self._unit
        parts = torch.view_as_real(x) if x.is_complex() else x
        largest = float(parts.abs().amax())
        if largest > 0.0 and (first or largest / self._unit > high**0.5):
            unit = 2.0 ** max(frexp(largest)[1], -1021)
            if not first:
                state.rescale_(self._unit / unit)
            self._unit = unit
        return x / self._unit

    def _seen(self) -> StreamState:
        if self._state is None:
            raise DataError(f"This {type(self).__name__} has seen nothing yet. Give it slabs with update(slab).")
        return self._state

    def _rounded(self) -> tuple[Format, float, str]:
        if self._found is not None:
            return self._found
        state = self._seen()
        layout = self._layout(state.n_rows)
        if state.empty or state.norm2 == 0.0:
            zeros = [state.like.new_zeros(s) for s in layout.shapes((1,) * len(layout.bonds))]
            error = 0.0 if state.norm2 == 0.0 else sqrt(state.error2 / state.norm2)
            self._found = (layout.build(zeros), error, "exact")
            return self._found
        floor2 = self._floor2()
        allowed2 = None if self.eps is None else max(self.eps**2 * state.norm2 * (1 - 1e-6) - floor2, floor2)
        caps = self._caps() if self._rank is not None else {bond: state.sizes[bond] for bond in layout.bonds}
        found = state.rounded(allowed2, floor2, caps)
        nodes = list(found.nodes)
        nodes[state.root] = nodes[state.root] * self._unit
        kind = "exact" if found.exact and found.error2 >= 100 * floor2 else "bound"
        error = sqrt(max(found.error2, floor2 if kind == "bound" else 0.0) / state.norm2)
        self._found = (layout.build(nodes), error, kind)
        return self._found


def tree_labels(state: StreamState) -> tuple[str, ...]:
    """The labels of a slab's modes."""
    return state.tree.topology.output


class StreamingTT(Streaming):
    """A tensor train of a stream of slabs; see `Streaming` for the arguments.

    Example:
        >>> import torch
        >>> stream = StreamingTT(eps=1e-6, mode=-1)
        >>> for _ in range(3):
        ...     stream.update(torch.ones(4, 5, 2))
        >>> stream.tensor.shape, stream.tensor.ranks
        ((4, 5, 6), (1, 1))
    """

    spec: ClassVar[FormatSpec] = TTSpec()
    name: ClassVar[str] = "streaming_tt"

    @staticmethod
    def _root(mode: int) -> int:
        return mode


class StreamingTucker(Streaming):
    """A Tucker tensor of a stream of slabs; see `Streaming` for the arguments.

    Example:
        >>> import torch
        >>> stream = StreamingTucker(eps=1e-6)
        >>> for k in range(3):
        ...     stream.update(k * torch.ones(2, 4, 5))
        >>> stream.tensor.shape, stream.tensor.ranks
        ((6, 4, 5), (1, 1, 1))
    """

    spec: ClassVar[FormatSpec] = TuckerSpec()
    name: ClassVar[str] = "streaming_tucker"

    @staticmethod
    def _root(mode: int) -> int:
        return 1 + mode
