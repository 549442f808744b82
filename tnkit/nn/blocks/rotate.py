"""rotate_blocks: a transformer with a narrower residual stream, by a rotation after which its last coordinates are cut.

Norms are made free of their own scale (it goes into the layers after them, or into a matrix of the norm), so that a
rotation of the stream passes through them; then everything that writes to the stream is multiplied by Qᵀ and everything
that reads it by Q, and the coordinates of little energy are dropped. There is one Q for all blocks, the eigenvectors of
the second moments of all norms' inputs together, each counting alike; or one for each block, with a small product at
the entry of the next one, which takes the stream from the one basis to the other as well as can be: where that is no
basis of eigenvectors of the stream just there, this is not the product of the two. The code of the blocks does not
change.

References:
    Ashkboos et al., SliceGPT, arXiv 2401.15024 (with a rotation for each block, and a product on each shortcut).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tnkit.errors import OptionError
from tnkit.nn.batches import attention_mask, evaluating, output_tensors, require_batches, run_batch
from tnkit.nn.blocks.families import Block, Family, blocks_in
from tnkit.nn.hooks import hooked
from tnkit.nn.measure import Before
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.resized import resize_
from tnkit.nn.sliced_norm import SlicedNorm
from tnkit.nn.structure import mark_
from tnkit.nn.surgery import n_bytes, n_params
from tnkit.nn.turn import turn_

__all__ = ["rotate_blocks"]

#: Share of the mean energy that every direction of the stream has at least, for the products between blocks.
DAMPING = 1e-4


def rotate_blocks(
    model: nn.Module,
    keep: float,
    calib: Iterable[Any],
    *,
    rotation: bool = True,
    each_block: bool = False,
    measure: bool = True,
) -> tuple[nn.Module, ModelReport]:
    """Cut the residual stream of a transformer of a known family to a share of its width.

    Args:
        model: with a configuration that tells its heads; its layers are dense. It is not changed.
        keep: share of the width that stays, in (0, 1]; at 1 the outputs are the same.
        calib: batches as in `compress`.
        rotation: False cuts coordinates as they are, those of the least energy: the plain truncation.
        each_block: a rotation of its own for each block, and from block to block a product with the square of the width
            that stays (see `tnkit.nn.turn`), fitted to the stream that passes there. Somewhat larger at the same width,
            and nearer in all that was measured (two trained models at three widths).
        measure: time the model, and run the first batch for the error of its outputs.

    Returns:
        (model, report): a copy whose tables, layers and norms are narrower; outputs have the width that they had.

    Raises:
        OptionError: no such family, layers that are compressed already, or norms of another kind.
        DataError: no batch, or one that the model does not take.

    Cost:
        One pass over `calib`, and one eigendecomposition of the stream's second moments.

    Example:
        >>> import torch
        >>> from tnkit.nn.blocks import rotate_blocks
        >>> from transformers import LlamaConfig, LlamaModel
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> model = LlamaModel(LlamaConfig(vocab_size=50, **sizes)).eval()
        >>> small, report = rotate_blocks(model, 0.75, [{"input_ids": torch.arange(20).reshape(2, 10)}])
        >>> small.embed_tokens.weight.shape, report.params_after < report.params_before
        (torch.Size([50, 12]), True)
    """
    if not 0.0 < keep <= 1.0:
        raise OptionError(f"rotate_blocks: keep={keep} is not in (0, 1]. It is the share of the width that stays.")
    stream = _Stream.of(model)
    batches = list(require_batches(calib, "rotate_blocks"))
    moments = _moments(model, stream, batches)
    before = Before.of(model, batches[0] if measure else None)
    count = max(1, int(keep * stream.width))
    qs = _bases(stream, moments, count, rotation=rotation, each_block=each_block)
    turns = {k: _turn(moments[stream.entry(k)], qs[k], qs[k - 1]) for k in range(1, len(qs)) if qs[k] is not qs[k - 1]}
    lost = {path: _lost(moment, qs[stream.place(path)]) for path, moment in moments.items()}
    made = copy.deepcopy(model)
    reports = _Cut(made, stream, qs, turns, lost, sum(lost.values()) / len(lost)).carry_out_()
    note = "rel. error: what of the residual stream is cut where a layer reads it, on average where it writes"
    return mark_(made), before.report(made, reports, len(reports), (note,))


def _bases(
    stream: _Stream, moments: dict[str, Tensor], count: int, *, rotation: bool, each_block: bool
) -> list[Tensor]:
    """The basis of the stream in each block."""
    parts: list[list[Tensor]] = [[] for _ in stream.blocks]
    for path, moment in moments.items():
        k, part = stream.place(path), moment / moment.trace().clamp_min(1e-300)
        parts[k].append(part)
        if stream.family.post_norm and path == stream.blocks[k].path(stream.family.norms[1]) and k + 1 < len(parts):
            parts[k + 1].append(part)  # what the next block is given
    if each_block:
        return [_basis(torch.stack(of).mean(dim=0), count, rotation=rotation) for of in parts]
    joint = torch.stack([m / m.trace().clamp_min(1e-300) for m in moments.values()]).mean(dim=0)
    return [_basis(joint, count, rotation=rotation)] * len(parts)


def _basis(moment: Tensor, count: int, *, rotation: bool) -> Tensor:
    """(d, count) orthonormal: the leading eigenvectors, or the coordinates of the most energy."""
    if rotation:
        leading: Tensor = torch.linalg.eigh(moment)[1].flip(-1)[:, :count].contiguous()
        return leading
    kept = moment.diagonal().topk(count).indices.sort()[0]
    return torch.eye(len(moment), dtype=moment.dtype)[:, kept].contiguous()


def _turn(moment: Tensor, q: Tensor, before: Tensor) -> Tensor:
    """The product after which the stream in the basis `before` comes nearest to that in q, in the mean of squares.

    That is Qᵀ M Q' (Q'ᵀ M Q')⁻¹ for the second moments M; Qᵀ Q' where Q' holds eigenvectors of M, as in the paper.
    """
    damped = moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    seen = damped @ before
    fitted: Tensor = torch.linalg.solve(before.mT @ seen, q.mT @ seen, left=False)
    return fitted


def _lost(moment: Tensor, q: Tensor) -> float:
    whole = float(moment.trace())
    return max(1.0 - float((q.mT @ moment @ q).trace()) / whole, 0.0) ** 0.5 if whole > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """Where a model's residual stream is written, read and normalised.

    Attributes:
        blocks: in order.
        family: of all of them.
        body: name of the module that holds tables and blocks.
        width: d.
        head: name of the layer that reads the last norm, or None.
    """

    blocks: list[Block]
    family: Family
    body: str
    width: int
    head: str | None

    @staticmethod
    def of(model: nn.Module) -> _Stream:
        blocks = blocks_in(model)
        family, first = blocks[0].family, blocks[0].name
        body = first.removesuffix(f"{family.stack}.0").rstrip(".")
        names = dict(model.named_modules())
        inside = f"{body}." if body else ""
        parts = [b.path(part) for b in blocks for part in (*family.parts, *family.norms)]
        parts += [inside + name for name in (*family.embeddings, family.last_norm)]
        unfit = [p for p in parts if p not in names or not isinstance(getattr(names[p], "weight", None), nn.Parameter)]
        extra = [n for n in ("project_in", "project_out") if getattr(model.get_submodule(body), n, None) is not None]
        config: Any = getattr(model, "config", None)
        if unfit or extra or not getattr(config, "do_layer_norm_before", True):
            raise OptionError(
                f"rotate_blocks: the stream of this {type(model).__name__} cannot be followed at "
                f"{(unfit or extra or ['norms after their sums'])[0]!r}. Give a dense model of a known family."
            )
        table: Any = names[inside + family.embeddings[0]]
        give: Any = getattr(model, "get_output_embeddings", None)
        last = None if give is None or family.post_norm else give()
        head = next((n for n, m in names.items() if m is last), None) if last is not None else None
        return _Stream(blocks, family, body, table.weight.shape[1], head)

    def inside(self, name: str) -> str:
        """The full name of a part of the body."""
        return f"{self.body}.{name}" if self.body else name

    def place(self, path: str) -> int:
        """The number of the block that a layer or a norm belongs to; what comes before all is of the first block."""
        for k, block in enumerate(self.blocks):
            if path.startswith(f"{block.name}."):
                return k
        before = (*self.family.embeddings, *((self.family.last_norm,) if self.family.post_norm else ()))
        return 0 if path in {self.inside(name) for name in before} else len(self.blocks) - 1

    def entry(self, k: int) -> str:
        """The norm that sees the stream as block k > 0 is given it."""
        if self.family.post_norm:
            return self.blocks[k - 1].path(self.family.norms[1])
        return self.blocks[k].path(self.family.norms[0])

    def norms(self) -> dict[str, tuple[str, ...]]:
        """Paths of the norms, and of the layers that read each."""
        found: dict[str, tuple[str, ...]] = {}
        family = self.family
        heads = tuple(dict.fromkeys((family.queries, family.keys, family.values)))
        if family.post_norm:
            found[self.inside(family.last_norm)] = ()
        for block in self.blocks:
            readers = ((), ()) if family.post_norm else (heads, family.ups)
            for norm, names in zip(family.norms, readers, strict=True):
                found[block.path(norm)] = tuple(block.path(name) for name in names)
        if not family.post_norm:
            found[self.inside(family.last_norm)] = ()
        return found


def _moments(model: nn.Module, stream: _Stream, batches: list[Any]) -> dict[str, Tensor]:
    """(d, d) second moments of the stream at each norm, tokens scaled alike; without the mean that a norm drops."""
    found = {path: torch.zeros(stream.width, stream.width, dtype=torch.float64) for path in stream.norms()}
    mask: Tensor | None = None

    def watch(path: str, centred: bool) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = output_tensors(output)[0] if stream.family.post_norm else args[0]
            h = x.detach().double()
            h = h - h.mean(dim=-1, keepdim=True) if centred and not stream.family.post_norm else h
            h = h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + 1e-12)
            rows = h[mask] if mask is not None and mask.shape == h.shape[:-1] else h.reshape(-1, h.shape[-1])
            found[path] += (rows.mT @ rows).cpu()

        return hook

    layers = {path: model.get_submodule(path) for path in found}
    handles = [m.register_forward_hook(watch(p, isinstance(m, nn.LayerNorm))) for p, m in layers.items()]
    with hooked(handles), evaluating(model):
        for batch in batches:
            mask = attention_mask(batch)
            run_batch(model, batch, "rotate_blocks")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """The surgery on a copy."""

    model: nn.Module
    stream: _Stream
    qs: list[Tensor]
    turns: dict[int, Tensor]
    lost: dict[str, float]
    mean_lost: float

    def carry_out_(self) -> list[LayerReport]:
        stream, family, found = self.stream, self.stream.family, []
        norms = stream.norms()
        scales = {path: _scale_and_shift(self.model.get_submodule(path), stream.width) for path in norms}
        head: Any = None if stream.head is None else self.model.get_submodule(stream.head)
        table: Any = self.model.get_submodule(stream.inside(family.embeddings[0]))
        tied = head is not None and head.weight is table.weight
        for path, readers in norms.items():
            gamma, beta = scales[path]
            for reader in readers:
                found.append(self._layer_(reader, reads=True, gamma=gamma, beta=beta, error=self.lost[path]))
        if family.post_norm:
            heads = tuple(dict.fromkeys((family.queries, family.keys, family.values)))
            for block in stream.blocks:
                for part in (*heads, *family.ups):
                    found.append(self._layer_(block.path(part), reads=True, error=self.mean_lost))
        for block in stream.blocks:
            for part in (family.output, family.down):
                found.append(self._layer_(block.path(part), reads=False, error=self.mean_lost))
        for name in family.embeddings:
            layer: Any = self.model.get_submodule(stream.inside(name))
            size = n_params(layer), n_bytes(layer)
            resize_(layer, "weight", (layer.weight.detach().double() @ self.qs[0]).to(layer.weight))
            found.append(self._report(stream.inside(name), layer, size, self.mean_lost))
        if tied:
            resize_(head, "weight", table.weight.detach())
            head._parameters["weight"] = table.weight
        last = list(norms)[-1]
        gamma, beta = scales[last]
        folds = head is not None and not tied and (beta is None or not bool(beta.any()) or head.bias is not None)
        if folds:
            head_error = self.lost[last]
            found.append(self._layer_(str(stream.head), reads=True, gamma=gamma, beta=beta, error=head_error))
        for path in norms:
            plain = folds if path == last else not family.post_norm
            self._norm_(path, *scales[path], plain=plain, back=path == last and not tied and not folds)
        self._turns_()
        return found

    def _q(self, path: str) -> Tensor:
        """The basis of the stream where a layer or a norm stands."""
        return self.qs[self.stream.place(path)]

    def _turns_(self) -> None:
        """Products between blocks of different bases."""
        for k, turn in self.turns.items():
            layer = self.model.get_submodule(self.stream.blocks[k].name)
            turn_(layer, turn.to(next(layer.parameters())))

    def _layer_(
        self,
        path: str,
        *,
        reads: bool,
        gamma: Tensor | None = None,
        beta: Tensor | None = None,
        error: float,
    ) -> LayerReport:
        """W Γ Q and b + W β where it reads the stream; Qᵀ W and Qᵀ b where it writes."""
        layer: Any = self.model.get_submodule(path)
        size = n_params(layer), n_bytes(layer)
        turned = not isinstance(layer, nn.Linear)  # transformers' Conv1D holds the transpose
        weight = layer.weight.detach().double()
        w, q = (weight.mT if turned else weight), self._q(path)
        if reads:
            scaled = w if gamma is None else w * gamma
            new, shift = scaled @ q, None if beta is None else w @ beta
            if shift is not None and bool(shift.any()):
                if layer.bias is None:
                    raise OptionError(
                        f"rotate_blocks: {path!r} has no bias to take up the shift of the norm before it."
                    )
                layer.bias.data += shift.to(layer.bias)
        else:
            new = q.mT @ w
            if layer.bias is not None:
                resize_(layer, "bias", (q.mT @ layer.bias.detach().double()).to(layer.bias))
        resize_(layer, "weight", (new.mT if turned else new).to(layer.weight).contiguous())
        return self._report(path, layer, size, error)

    def _norm_(self, path: str, gamma: Tensor, beta: Tensor | None, *, plain: bool, back: bool) -> None:
        """The norm of the narrow stream; with a matrix where its scale is in no layer after it."""
        old: Any = self.model.get_submodule(path)
        centred, dtype = isinstance(old, nn.LayerNorm), old.weight.dtype
        q = self._q(path)
        width = q.shape[1]
        out = 0 if plain else self.stream.width if back else width
        new = SlicedNorm(width, self.stream.width, _eps(old), centred=centred, out=out, dtype=dtype)
        with torch.no_grad():
            if new.mean is not None:
                new.mean.copy_(q.sum(dim=0) / self.stream.width**0.5)
            if new.turn is not None and new.bias is not None:
                turn = gamma[:, None] * q  # Γ Q
                to = q if self.stream.family.post_norm else self.qs[0]  # the table that is also the head
                new.turn.copy_(turn if back else to.mT @ turn)
                shift = torch.zeros_like(gamma) if beta is None else beta
                new.bias.copy_(shift if back else to.mT @ shift)
        parent, _, name = path.rpartition(".")
        setattr(self.model.get_submodule(parent), name, new.to(old.weight.device).train(old.training))

    def _report(self, path: str, layer: nn.Module, before: tuple[int, int], error: float) -> LayerReport:
        return LayerReport(
            name=path,
            kind=type(layer).__name__,
            spec="rotated",
            rank=(self.qs[0].shape[1],),
            compressed=True,
            reason="",
            params_before=before[0],
            params_after=n_params(layer),
            bytes_before=before[1],
            bytes_after=n_bytes(layer),
            rel_error=error,
            weighted=True,
        )


def _eps(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))


def _scale_and_shift(norm: Any, width: int) -> tuple[Tensor, Tensor | None]:
    """γ and β of a norm that computes as LayerNorm or RMSNorm do.

    Raises:
        OptionError: it does not.
    """
    gamma = norm.weight.detach().double()
    bias = getattr(norm, "bias", None)
    beta = None if bias is None else bias.detach().double()
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(norm.weight)
    h = x.double()
    h = h - h.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else h
    want = h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + _eps(norm)) * gamma
    want = want if beta is None else want + beta
    with torch.no_grad():
        seen = norm(x).double()
    if float((seen - want).norm()) > 0.02 * float(want.norm()):
        raise OptionError(
            f"rotate_blocks: a {type(norm).__name__} computes neither as LayerNorm nor as RMSNorm does, so no rotation "
            "passes through it."
        )
    return gamma, beta
