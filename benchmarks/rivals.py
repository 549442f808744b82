"""The other libraries, as contenders: what is installed, each called the way its documentation says."""

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Answer, Contender

T = TypeVar("T")
HAS = {name: find_spec(name) is not None for name in ("tensorly", "torchtt", "tntorch", "quimb", "pyttb", "teneva")}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # torchTT says on import that its compiled part is missing
    if HAS["tensorly"]:
        import tensorly
        from tensorly.decomposition import tensor_ring, tensor_train, tucker
    if HAS["torchtt"]:
        import torchtt
    if HAS["tntorch"]:
        import tntorch
    if HAS["quimb"]:
        import quimb.tensor as qtn
    if HAS["pyttb"]:
        import pyttb
    if HAS["teneva"]:
        import teneva


def of_train(cores: list[Any]) -> Answer:
    """Cores (r_k, n_k, r_{k+1})."""
    found = [torch.as_tensor(core) for core in cores]

    def dense() -> Tensor:
        x = found[0].reshape(-1, found[0].shape[-1])
        for core in found[1:]:
            x = (x @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[-1])
        return x

    return Answer(dense, sum(core.numel() for core in found))


def of_tucker(core: Any, factors: list[Any]) -> Answer:
    """A core and one factor (n_k, r_k) for each mode."""
    middle, sides = torch.as_tensor(core), [torch.as_tensor(f) for f in factors]

    def dense() -> Tensor:
        y = middle
        for k, f in enumerate(sides):
            y = torch.movedim(torch.tensordot(y, f, dims=([k], [1])), -1, k)
        return y.contiguous()

    return Answer(dense, middle.numel() + sum(f.numel() for f in sides))


def of_ring(cores: list[Any]) -> Answer:
    """Cores (r_k, n_k, r_{k+1}) with r_d = r_0."""
    found = [torch.as_tensor(core) for core in cores]

    def dense() -> Tensor:
        x = found[0]
        first = x.shape[0]
        for core in found[1:]:
            x = torch.tensordot(x.reshape(first, -1, x.shape[-1]), core, dims=([2], [0])).reshape(
                first, -1, core.shape[-1]
            )
        return x.diagonal(dim1=0, dim2=2).sum(-1)

    return Answer(dense, sum(core.numel() for core in found))


def with_torch(work: Callable[[], T]) -> T:
    """Run with tensorly's torch backend."""
    with tensorly.backend_context("pytorch"):
        return work()


def trains(ranks: tuple[int, ...]) -> Mapping[str, Contender]:
    """A train of given ranks (r_1 … r_{d-1})."""
    whole, who = [1, *ranks, 1], dict[str, Contender]()
    if HAS["tensorly"]:
        who["tensorly"] = lambda x: of_train(tensor_train(x.numpy(), whole).factors)
        who["tensorly (torch)"] = lambda x: with_torch(lambda: of_train(tensor_train(x, whole).factors))
        who["tensorly (randomised)"] = lambda x: of_train(tensor_train(x.numpy(), whole, svd="randomized_svd").factors)
        who["tensorly (torch, randomised)"] = lambda x: with_torch(
            lambda: of_train(tensor_train(x, whole, svd="randomized_svd").factors)
        )
    if HAS["torchtt"]:
        who["torchTT"] = lambda x: of_train(list(torchtt.TT(x, eps=1e-14, rmax=whole).cores))
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: of_train(tntorch.Tensor(x, ranks_tt=list(ranks)).cores)
    if HAS["teneva"]:
        who["teneva"] = lambda x: of_train(teneva.svd(x.numpy(), e=1e-14, r=max(ranks)))
    if HAS["quimb"]:
        who["quimb"] = lambda x: of_mps(x, max_bond=max(ranks), cutoff=0.0)
    return who


def trains_by_eps(eps: float) -> Mapping[str, Contender]:
    """A train to a relative error."""
    who = dict[str, Contender]()
    if HAS["torchtt"]:
        who["torchTT"] = lambda x: of_train(list(torchtt.TT(x, eps=eps).cores))
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: of_train(rounded(tntorch.Tensor(x), eps))
    if HAS["teneva"]:
        # its e is a share of one cut of the rest, not of the whole
        who["teneva"] = lambda x: of_train(teneva.svd(x.numpy(), e=eps * float(x.norm()) / np.sqrt(x.ndim - 1)))
    if HAS["quimb"]:
        who["quimb"] = lambda x: of_mps(x, cutoff=eps**2 / (x.ndim - 1), cutoff_mode="rsum2")
    return who


def rounded(t: Any, eps: float) -> list[Tensor]:
    t.round_tt(eps=eps)
    return list(t.cores)


def of_mps(x: Tensor, **options: Any) -> Answer:
    mps = qtn.MatrixProductState.from_dense(x.numpy(), dims=tuple(x.shape), **options)
    return Answer(lambda: torch.as_tensor(mps.to_dense()), sum(t.size for t in mps.tensors))


def tuckers(ranks: tuple[int, ...]) -> Mapping[str, Contender]:
    """Tucker of given ranks."""
    who = dict[str, Contender]()
    if HAS["tensorly"]:
        who["tensorly HOOI"] = lambda x: of_tucker(*tucker(x.numpy(), rank=list(ranks)))
        who["tensorly HOOI (torch)"] = lambda x: with_torch(lambda: of_tucker(*tucker(x, rank=list(ranks))))
        who["tensorly HOOI (torch, randomised)"] = lambda x: with_torch(
            lambda: of_tucker(*tucker(x, rank=list(ranks), svd="randomized_svd"))
        )
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: tntorch_tucker(x, ranks)
    if HAS["pyttb"]:
        who["pyttb ST-HOSVD"] = lambda x: of_hosvd(x, tol=0.0, ranks=list(ranks))
    return who


def tuckers_by_eps(eps: float) -> Mapping[str, Contender]:
    """Tucker to a relative error."""
    who = dict[str, Contender]()
    if HAS["pyttb"]:
        who["pyttb ST-HOSVD"] = lambda x: of_hosvd(x, tol=eps)
    if HAS["tntorch"]:
        who["tntorch"] = lambda x: tntorch_rounded(x, eps)
    return who


def tntorch_tucker(x: Tensor, ranks: tuple[int, ...]) -> Answer:
    t = tntorch.Tensor(x, ranks_tucker=list(ranks))
    return Answer(t.torch, sum(p.numel() for p in (*t.cores, *(u for u in t.Us if u is not None))))


def tntorch_rounded(x: Tensor, eps: float) -> Answer:
    t = tntorch.Tensor(x)
    t.round_tucker(eps=eps)
    return Answer(t.torch, sum(p.numel() for p in (*t.cores, *(u for u in t.Us if u is not None))))


def of_hosvd(x: Tensor, **options: Any) -> Answer:
    t = pyttb.hosvd(pyttb.tensor(x.numpy()), verbosity=0, **options)
    size = t.core.data.size + sum(f.size for f in t.factor_matrices)
    return Answer(lambda: torch.as_tensor(np.ascontiguousarray(t.full().data)), size)


def rings(ranks: tuple[int, ...]) -> Mapping[str, Contender]:
    """A ring of given ranks (r_0 … r_{d-1}), by singular values."""
    if not HAS["tensorly"]:
        return {}
    return {"tensorly SVD": lambda x: of_ring(tensor_ring(x.numpy(), [*ranks, ranks[0]]).factors)}
