"""Random trees over shuffled modes, with branches, and arrays that have them."""

import random

import torch

from tnkit.search import Graph


def random_tree(d: int, n: int, seed: int) -> Graph:
    """A tree in which nodes hold no mode or some, with two branches or more; ranks 2 and 3."""
    rnd = random.Random(seed)
    modes = list(range(d))
    rnd.shuffle(modes)
    nodes: list[tuple[int, ...]] = []
    bonds: dict[tuple[int, int], int] = {}

    def build(part: list[int]) -> int:
        here = len(nodes)
        nodes.append(())
        if len(part) == 1:
            nodes[here] = (part[0],)
            return here
        own: tuple[int, ...] = ()
        if rnd.random() < 0.4:
            own, part = (part[0],), part[1:]
        count = min(len(part), rnd.choice([1, 2, 3]) if own else rnd.choice([2, 3]))
        ends = sorted(rnd.sample(range(1, len(part)), count - 1))
        nodes[here] = own
        for a, b in zip([0, *ends], [*ends, len(part)], strict=True):
            bonds[here, build(part[a:b])] = rnd.choice([2, 3])
        return here

    build(modes)
    return Graph((n,) * d, nodes, bonds)


def dense(graph: Graph, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """An array of norm 1 with random nodes, and noise of that norm."""
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    nodes = [torch.randn(s, generator=gen, dtype=torch.float64) for s in layout.shapes(graph.bond_ranks())]
    x = layout.build(nodes).to_dense()
    white = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + noise * white / white.norm()
