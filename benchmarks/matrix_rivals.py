"""Structured matrices by the algorithms of the papers that brought them, written by hand after their formulas.

| format | algorithm | source |
|---|---|---|
| low rank | truncated SVD | Eckart and Young (1936) |
| block TT | an SVD of each block | Qiu et al., arXiv 2406.06248 (after Dao et al., Monarch, arXiv 2204.00595) |
| BLAST | preconditioned gradient descent, 300 steps | Lee et al., arXiv 2410.21262, algorithm 2 |
| Kronecker sum | SVD of the rearranged matrix | Van Loan and Pitsianis (1993) |
| TT | TT-SVD of the interleaved modes | Oseledets (2011), doi:10.1137/090752286 |
| block term | alternating least squares, 20 sweeps | De Lathauwer and Nion (2008), doi:10.1137/070690730 |

Each gives the dense value of a fit with given blocks, factors and ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def low_rank(w: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def block_tt(w: Tensor, sizes: tuple[int, int, int, int], rank: int) -> Tensor:
    """Sizes (l, j, k, i): rows are (l, j), columns (k, i); the block of one (j, k) is l × i."""
    el, j, k, i = sizes
    blocks = w.reshape(el, j, k, i).permute(1, 2, 0, 3)
    u, s, v = torch.linalg.svd(blocks, full_matrices=False)
    near = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
    return near.permute(2, 0, 1, 3).reshape(w.shape)


def kronecker(w: Tensor, sizes: tuple[int, int, int, int], rank: int) -> Tensor:
    """Sizes (a, b, p, q): a sum of (a × p) ⊗ (b × q)."""
    a, b, p, q = sizes
    rearranged = w.reshape(a, b, p, q).permute(0, 2, 1, 3).reshape(a * p, b * q)
    return low_rank(rearranged, rank).reshape(a, p, b, q).permute(0, 2, 1, 3).reshape(w.shape)


def tt_matrix(w: Tensor, rows: tuple[int, ...], columns: tuple[int, ...], ranks: tuple[int, ...]) -> Tensor:
    """TT-SVD of the array whose mode k joins row factor k and column factor k."""
    d = len(rows)
    pairs = [k for pair in zip(range(d), range(d, 2 * d), strict=True) for k in pair]
    x = w.reshape(*rows, *columns).permute(pairs)
    shape, cores, rest, before = x.shape, [], x, 1
    for k, rank in enumerate(ranks):
        u, s, v = torch.linalg.svd(rest.reshape(before * rows[k] * columns[k], -1), full_matrices=False)
        cores.append(u[:, :rank].reshape(before, -1, rank))
        rest, before = s[:rank, None] * v[:rank], min(rank, len(s))
    whole = cores[0]
    for core in [*cores[1:], rest.reshape(before, -1, 1)]:
        whole = torch.tensordot(whole, core, dims=1)
    back = sorted(range(2 * d), key=lambda axis: pairs[axis])
    return whole.reshape(shape).permute(back).reshape(w.shape)


def blast(w: Tensor, blocks: tuple[int, int], rank: int, rng: torch.Generator, steps: int = 300) -> Tensor:
    """W_ij = U_i diag(s_ij) V_jᵀ; small random start, step falling linearly from 1, δ = .1 √loss."""
    (bi, bj), (m, n) = blocks, w.shape
    x = w.reshape(bi, m // bi, bj, n // bj).transpose(1, 2)  # (i, j, a, b)
    u = 0.01 * torch.randn(bi, m // bi, rank, generator=rng, dtype=w.dtype)
    v = 0.01 * torch.randn(bj, n // bj, rank, generator=rng, dtype=w.dtype)
    s = torch.rand(bi, bj, rank, generator=rng, dtype=w.dtype)
    eye = torch.eye(rank, dtype=w.dtype)

    def wrong() -> Tensor:
        t = (v[None] * s[:, :, None]).flatten(1, 2)  # (i, j·b, r)
        return (u @ t.mT).reshape(bi, m // bi, bj, n // bj).transpose(1, 2) - x

    for step in range(steps):
        pace = 1.0 - step / steps
        rest = wrong()
        delta = 0.1 * (0.5 * rest.square().sum()).sqrt()
        t = (v[None] * s[:, :, None]).flatten(1, 2)
        side = rest.transpose(1, 2).flatten(2) @ t
        u = u - pace * torch.linalg.solve(t.mT @ t + delta * eye, side, left=False)
        rest = wrong()
        t = (u[None] * s.transpose(0, 1)[:, :, None]).flatten(1, 2)  # (j, i·a, r)
        side = rest.permute(1, 3, 0, 2).flatten(2) @ t
        v = v - pace * torch.linalg.solve(t.mT @ t + delta * eye, side, left=False)
        rest = wrong()
        gram = (u.mT @ u)[:, None] * (v.mT @ v)[None]
        side = torch.einsum("iar,ijab,jbr->ijr", u, rest, v)
        s = s - pace * torch.linalg.solve(gram + delta * eye, side)
    return (wrong() + x).transpose(1, 2).reshape(m, n)


def block_term(x: Tensor, ranks: tuple[int, ...], terms: int, rng: torch.Generator, sweeps: int = 20) -> Tensor:
    """Σ_t core_t ×_k factor_t: in turn each mode's factors of all terms together, then all cores together."""
    d = x.ndim
    parts = [
        [torch.randn(n, r, generator=rng, dtype=x.dtype) for n, r in zip(x.shape, ranks, strict=True)]
        for _ in range(terms)
    ]
    parts = [[torch.linalg.qr(f)[0] for f in of] for of in parts]
    cores = [projected(x, of) for of in parts]
    for _ in range(sweeps):
        for k in range(d):
            sides = [expanded(core, of, k).movedim(k, 0).flatten(1) for core, of in zip(cores, parts, strict=True)]
            basis, target = torch.cat(sides), x.movedim(k, 0).flatten(1)  # (terms · r_k, rest)
            found = torch.linalg.lstsq(basis @ basis.mT, basis @ target.mT, driver="gelsd").solution.mT
            for t, part in enumerate(found.split(ranks[k], dim=1)):
                parts[t][k] = part
        for t in range(terms):
            turned = [torch.linalg.qr(f) for f in parts[t]]
            parts[t] = [q for q, _ in turned]
            cores[t] = expanded(cores[t], [r for _, r in turned])
        cores = solved_cores(x, parts, cores)
    return sum((expanded(core, of) for core, of in zip(cores, parts, strict=True)), torch.zeros_like(x))


def expanded(core: Tensor, parts: list[Tensor], skip: int = -1) -> Tensor:
    """core ×_k factor_k for all modes but one."""
    for k, part in enumerate(parts):
        core = core.movedim(0, -1) if k == skip else torch.tensordot(core, part, dims=([0], [1]))
    return core


def projected(x: Tensor, parts: list[Tensor]) -> Tensor:
    for part in parts:
        x = torch.tensordot(x, part, dims=([0], [0]))
    return x


def solved_cores(x: Tensor, parts: list[list[Tensor]], cores: list[Tensor], steps: int = 10) -> list[Tensor]:
    """The least-squares problem of all cores together, by conjugate gradients from where they are."""

    def residual(now: list[Tensor]) -> Tensor:
        return x - sum((expanded(c, of) for c, of in zip(now, parts, strict=True)), torch.zeros_like(x))

    def down(y: Tensor) -> Tensor:
        return torch.stack([projected(y, of) for of in parts])

    now = torch.stack(cores)
    rest = residual(list(now))
    side = down(rest)
    way, size = side, side.square().sum()
    for _ in range(steps):
        if float(size) <= 1e-30:
            break
        seen = sum((expanded(c, of) for c, of in zip(way, parts, strict=True)), torch.zeros_like(x))
        step = size / seen.square().sum()
        now, rest = now + step * way, rest - step * seen
        side = down(rest)
        before, size = size, side.square().sum()
        way = side + size / before * way
    return list(now)
