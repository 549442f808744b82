"""What searches are compared on: real arrays in the shapes of the literature, planted networks, published figures."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from tnkit.search import Graph
from tnkit.search.graph import chain, ring, star

if find_spec("tensorly"):
    from tensorly.datasets import load_covid19_serology, load_indian_pines, load_kinetic
if find_spec("skimage"):
    from skimage.data import astronaut


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of somebody else: entries, or per cent of those of the array, at a relative error, and seconds."""

    who: str
    eps: float
    n_params: int | None = None
    cr: float | None = None
    seconds: float | None = None
    source: str = ""


RGTN = "arXiv 2512.24663, table of orders 6 and 8"
#: By case: CR in per cent at relative error .01, total seconds, as the paper gives them for its own draws.
PUBLISHED = {
    "RGTN order 6": [
        Published("TNGA", 0.01, cr=0.94, seconds=3825, source=RGTN),
        Published("Greedy-TN", 0.01, cr=0.88, seconds=167, source=RGTN),
        Published("SVDinsTN", 0.01, cr=1.13, seconds=2, source=RGTN),
        Published("RGTN", 0.01, cr=0.76, seconds=6, source=RGTN),
    ],
    "RGTN order 8": [
        Published("TNGA", 0.01, cr=0.024, seconds=51_400, source=RGTN),
        Published("Greedy-TN", 0.01, cr=0.016, seconds=2625, source=RGTN),
        Published("SVDinsTN", 0.01, cr=0.016, seconds=17, source=RGTN),
        Published("RGTN", 0.01, cr=0.009, seconds=123, source=RGTN),
    ],
}


def double(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float64)


def kinetic() -> Tensor:
    """64×12×10×60; its 1754 missing entries are zeros, as the package gives them."""
    return double(np.asarray(load_kinetic()["tensor"]))


def pines() -> Tensor:
    """145×145×200."""
    return double(np.asarray(load_indian_pines()["tensor"]))


def cropped_pines() -> Tensor:
    """The first 144×144×192 as 12⁵×16."""
    return pines()[:144, :144, :192].reshape(12, 12, 12, 12, 12, 16).contiguous()


def serology() -> Tensor:
    """438×6×11."""
    return double(np.asarray(load_covid19_serology()["tensor"]))


def photograph() -> Tensor:
    """512×512×3 as 8⁶×3."""
    return double(astronaut()).reshape(*(8,) * 6, 3)


def real() -> dict[str, Callable[[], Tensor]]:
    """The real arrays whose packages are installed."""
    found: dict[str, Callable[[], Tensor]] = {}
    if find_spec("tensorly"):
        found["kinetic 64×12×10×60"] = kinetic
    if find_spec("skimage"):
        found["astronaut 8⁶×3"] = photograph
    if find_spec("tensorly"):
        found["Indian Pines 12⁵×16"] = cropped_pines
    return found


def planted(graph: Graph, seed: int, *, noise: float = 0.0, scale: float = 1.0, mean: float = 0.0) -> Tensor:
    """An array of norm 1 with random normal nodes, and white noise of that norm."""
    gen = torch.Generator().manual_seed(seed)
    layout = graph.layout()
    shapes = layout.shapes(graph.bond_ranks())
    nodes = [torch.randn(s, generator=gen, dtype=torch.float64) * scale + mean for s in shapes]
    x = layout.build(nodes).to_dense()
    white = torch.randn(x.shape, generator=gen, dtype=torch.float64)
    return x / x.norm() + noise * white / white.norm()


def greedy_targets() -> dict[str, Graph]:
    """The four of Hashemizadeh et al., arXiv 2008.05437: 7⁵."""
    shape = (7,) * 5
    triangle = {(0, 1): 5, (1, 2): 2, (0, 2): 5, (2, 3): 2, (3, 4): 2}
    return {
        "Tucker(2,3,4,3,2)": star(shape, (2, 3, 4, 3, 2)),
        "triangle(5,2,5,2,2)": Graph(shape, [(k,) for k in range(5)], triangle),
        "TT(2,3,6,5)": chain(shape, (2, 3, 6, 5)),
        "TR(2,3,4,5,5)": ring(shape, (2, 3, 4, 5, 5)),
    }


def loopy_targets() -> dict[str, Graph]:
    """Graphs with loops that no search was made for."""

    def over(shape: tuple[int, ...], bonds: dict[tuple[int, int], int]) -> Graph:
        return Graph(shape, [(k,) for k in range(len(shape))], bonds)

    square = {(0, 1): 2, (1, 2): 2, (2, 3): 2, (0, 3): 2}
    triangles = {(0, 1): 2, (1, 2): 2, (0, 2): 2, (2, 3): 2, (3, 4): 2, (2, 4): 2}
    return {
        "square with a tail, 6⁵": over((6,) * 5, {(0, 1): 2, (1, 2): 3, (2, 3): 2, (0, 3): 3, (3, 4): 2}),
        "all bonds of rank 2, 8⁴": over((8,) * 4, dict.fromkeys(combinations(range(4), 2), 2)),
        "square with a diagonal, 7⁴": over((7,) * 4, {**square, (0, 2): 2}),
        "ring 4×9×6×12×5": ring((4, 9, 6, 12, 5), (2, 3, 2, 3, 2)),
        "two triangles, 6⁵": over((6,) * 5, triangles),
        "ring, 5⁶": ring((5,) * 6, (2, 2, 3, 2, 2, 3)),
        "triangle, 12³": ring((12,) * 3, (3, 3, 3)),
        "ring of shuffled modes, 8⁴": ring((8,) * 4, (3, 2, 3, 2), order=(0, 2, 1, 3)),
    }


def random_loops(order: int, extra: int, seed: int) -> Graph:
    """A random tree over the modes with some bonds more: modes of 5 to 8, ranks 2 to 5, the planted ranks of use.

    A rank is of use where it is at most what the rest of each of its nodes is.
    """
    rnd = random.Random(seed * 100 + order * 10 + extra)
    pairs = list(combinations(range(order), 2))
    while True:
        shape = [rnd.choice((5, 6, 7, 8)) for _ in range(order)]
        bonds = {(rnd.randrange(k), k): 1 for k in range(1, order)}
        bonds |= dict.fromkeys(rnd.sample([p for p in pairs if p not in bonds], extra), 1)
        ranks = {bond: rnd.choice((2, 2, 3, 3, 4, 5)) for bond in bonds}
        graph = Graph(shape, [(k,) for k in range(order)], ranks)
        if all(r**2 <= graph.size(k) for bond, r in ranks.items() for k in bond):
            return graph


def rgtn(order: int, seed: int, *, extra: int = 2) -> tuple[Graph, Tensor]:
    """A random chain with extra bonds as arXiv 2512.24663 describes: modes of 7 or 8, bonds of 2 and one of 3.

    How many extra bonds there are the paper does not say; here two. Nodes are N(0, .2) + .01.
    """
    rnd = random.Random(seed)
    shape = [rnd.choice((7, 8)) for _ in range(order)]
    bonds = {(k, k + 1): 2 for k in range(order - 1)}
    pairs = [(a, b) for a in range(order) for b in range(a + 2, order)]
    bonds |= dict.fromkeys(rnd.sample(pairs, extra), 2)
    bonds[rnd.choice(list(bonds))] = 3
    graph = Graph(shape, [(k,) for k in range(order)], bonds)
    return graph, planted(graph, seed, scale=0.2, mean=0.01)


def random_tree(order: int, n: int, seed: int) -> Graph:
    """A tree with branches over shuffled modes, ranks 2 and 3."""
    rnd = random.Random(seed)
    modes = rnd.sample(range(order), order)
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
    return Graph((n,) * order, nodes, bonds)


def core_cases() -> Iterator[tuple[str, Callable[[], Tensor], int]]:
    """(name, data, size): three arrays at three parts of their entries each."""
    if find_spec("tensorly"):
        for name, make, entries, parts in (
            ("kinetic", kinetic, 64 * 12 * 10 * 60, (500, 200, 50)),
            ("Indian Pines", pines, 145 * 145 * 200, (500, 200, 50)),
            ("serology", serology, 438 * 6 * 11, (50, 20, 10)),
        ):
            for part in parts:
                yield name, make, entries // part
