"""Planted tensors with noise, decomposed at the planted ranks by tnkit and by the libraries that are installed."""

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from math import prod
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

import tnkit as tk
from benchmarks.harness import Answer, Case, Contender
from tnkit.report import FitReport

T = TypeVar("T")
HAS = {name: find_spec(name) is not None for name in ("tensorly", "torchtt", "tntorch", "quimb", "pyttb")}
if HAS["tensorly"]:
    import tensorly
    from tensorly.decomposition import tensor_train, tucker
if HAS["torchtt"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says on import that its compiled part is missing
        import torchtt
if HAS["tntorch"]:
    import tntorch
if HAS["quimb"]:
    import quimb.tensor as qtn
if HAS["pyttb"]:
    import pyttb


def cases(*, quick: bool = False) -> Iterator[Case]:
    """The rows of the table in the docs."""
    tt = ((12, 12, 12, 12, 4), 5) if quick else ((40, 40, 40, 40, 8), 20)
    yield tt_case("TT, noise 1e-3, float64", *tt, 1e-3, torch.float64)
    yield tt_case("TT, noise 1e-3, float32", *tt, 1e-3, torch.float32)
    yield tucker_case("Tucker, noise 1e-2, float64", *(((24,) * 3, 4) if quick else ((256,) * 3, 20)), 1e-2)
    yield tt_case(
        "TT, many modes, noise 1e-3, float64", (4 if quick else 16,) * 6, 3 if quick else 10, 1e-3, torch.float64
    )


def tt_case(name: str, shape: tuple[int, ...], rank: int, noise: float, dtype: torch.dtype) -> Case:
    """A random train of the rank, normalised, plus white noise of relative norm `noise`."""
    ranks = (1, *(rank,) * (len(shape) - 1), 1)

    def data() -> Tensor:
        gen = torch.Generator().manual_seed(0)
        cores = [
            torch.randn(a, n, b, generator=gen, dtype=dtype) for a, n, b in zip(ranks, shape, ranks[1:], strict=False)
        ]
        return with_noise(tt_dense(cores).reshape(shape), noise, gen)

    who: dict[str, Contender] = {"tnkit": lambda x: tnkit_answer(tk.decompose(x, "tt", rank=rank))}
    if HAS["tensorly"]:
        who["tensorly"] = lambda x: tt_answer(tensor_train(x.numpy(), list(ranks)).factors)
        who["tensorly (torch)"] = lambda x: tt_answer(on_torch(lambda: tensor_train(x, list(ranks)).factors))
        who["tensorly (randomised)"] = lambda x: tt_answer(
            tensor_train(x.numpy(), list(ranks), svd="randomized_svd").factors
        )
    if HAS["torchtt"]:
        who["torchTT"] = lambda x: tt_answer(torchtt_cores(x, rank))
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: tt_answer(tntorch.Tensor(x, ranks_tt=rank).cores)
    if HAS["quimb"]:
        who["quimb"] = lambda x: quimb_answer(x, rank)
    return Case(f"{name}: {'×'.join(map(str, shape))}, rank {rank}", data, who, one_projection(shape, rank))


def tucker_case(name: str, shape: tuple[int, ...], rank: int, noise: float) -> Case:
    """A random core with orthonormal factors, normalised, plus white noise of relative norm `noise`."""

    def data() -> Tensor:
        gen = torch.Generator().manual_seed(0)
        x = torch.randn((rank,) * len(shape), generator=gen, dtype=torch.float64)
        for k, n in enumerate(shape):
            q = torch.linalg.qr(torch.randn(n, rank, generator=gen, dtype=torch.float64)).Q
            x = torch.movedim(torch.tensordot(x, q, dims=([k], [1])), -1, k)
        return with_noise(x, noise, gen)

    ranks = [rank] * len(shape)
    who: dict[str, Contender] = {
        "tnkit": lambda x: tnkit_answer(tk.decompose(x, "tucker", rank=rank)),
        "tnkit ST-HOSVD": lambda x: tnkit_answer(tk.decompose(x, "tucker", rank=rank, method="st_hosvd")),
    }
    if HAS["tensorly"]:
        who["tensorly HOOI"] = lambda x: tensorly_tucker(x, ranks)
        who["tensorly HOOI (torch)"] = lambda x: on_torch(lambda: tensorly_tucker(x, ranks))
        who["tensorly HOOI (torch, randomised)"] = lambda x: on_torch(
            lambda: tensorly_tucker(x, ranks, svd="randomized_svd")
        )
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: tntorch_tucker(x, rank)
    if HAS["pyttb"]:
        who["pyttb ST-HOSVD"] = lambda x: pyttb_answer(x, ranks)
    return Case(f"{name}: {'×'.join(map(str, shape))}, rank {rank}", data, who, one_projection(shape, rank))


def with_noise(x: Tensor, noise: float, gen: torch.Generator) -> Tensor:
    x = x / torch.linalg.vector_norm(x)
    white = torch.randn(x.shape, generator=gen, dtype=x.dtype)
    return x + noise / torch.linalg.vector_norm(white) * white


def tt_dense(cores: list[Tensor]) -> Tensor:
    x = cores[0].reshape(-1, cores[0].shape[-1])
    for core in cores[1:]:
        x = (x @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[-1])
    return x


def tnkit_answer(fit: FitReport) -> Answer:
    return Answer(fit.tensor.to_dense, fit.n_params)


def tt_answer(found: list[Tensor] | list[np.ndarray]) -> Answer:
    cores = [torch.as_tensor(core) for core in found]
    return Answer(lambda: tt_dense(cores), sum(core.numel() for core in cores))


def torchtt_cores(x: Tensor, rank: int) -> list[Tensor]:
    return list(torchtt.TT(x, eps=1e-14, rmax=rank).cores)


def quimb_answer(x: Tensor, rank: int) -> Answer:
    mps = qtn.MatrixProductState.from_dense(x.numpy(), dims=tuple(x.shape), max_bond=rank, cutoff=0.0)
    return Answer(lambda: torch.as_tensor(mps.to_dense()), sum(t.size for t in mps.tensors))


def tensorly_tucker(x: Tensor, ranks: list[int], **options: str) -> Answer:
    core, factors = tucker(x if tensorly.get_backend() == "pytorch" else x.numpy(), rank=ranks, **options)
    core, factors = torch.as_tensor(core), [torch.as_tensor(f) for f in factors]

    def dense() -> Tensor:
        y = core
        for k, f in enumerate(factors):
            y = torch.movedim(torch.tensordot(y, f, dims=([k], [1])), -1, k)
        return y.contiguous()

    return Answer(dense, core.numel() + sum(f.numel() for f in factors))


def on_torch(work: Callable[[], T]) -> T:
    """Run with tensorly's torch backend."""
    with tensorly.backend_context("pytorch"):
        return work()


def one_projection(shape: tuple[int, ...], rank: int) -> float:
    """Flops of one product of the array with `rank` vectors: no direct method does with less."""
    return 2.0 * prod(shape) * rank


def tntorch_tucker(x: Tensor, rank: int) -> Answer:
    t = tntorch.Tensor(x, ranks_tucker=rank)
    return Answer(t.torch, sum(p.numel() for p in (*t.cores, *(u for u in t.Us if u is not None))))


def pyttb_answer(x: Tensor, ranks: list[int]) -> Answer:
    t = pyttb.hosvd(pyttb.tensor(x.numpy()), tol=0.0, ranks=ranks, verbosity=0)
    size = int(np.prod(t.core.shape)) + sum(f.size for f in t.factor_matrices)
    return Answer(lambda: torch.as_tensor(np.ascontiguousarray(t.full().data)), size)
