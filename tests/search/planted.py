"""Random trees over shuffled modes, with branches, and arrays that have them."""

import torch

from benchmarks.search_data import random_tree
from tnkit.search import Graph

__all__ = ["dense", "random_tree"]


def dense(graph: Graph, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """An array of norm 1 with random nodes, and noise of that norm."""
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    nodes = [torch.randn(s, generator=gen, dtype=torch.float64) for s in layout.shapes(graph.bond_ranks())]
    x = layout.build(nodes).to_dense()
    white = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + noise * white / white.norm()
