"""cotengra as a finder of contraction orders: `import tnkit.interop.cotengra`, then `plan(…, optimize="cotengra")`.

Example:
    >>> import tnkit.interop.cotengra
    >>> from tnkit.network import Topology, plan
    >>> plan(Topology.parse("ia,ajb,bk->ijk"), ((4, 2), (2, 5, 3), (3, 6)), optimize="cotengra").flops
    840
"""

from __future__ import annotations

from typing import Any

from opt_einsum.paths import PathOptimizer

from tnkit.errors import MissingExtraError
from tnkit.registry import PROVIDERS

try:
    import cotengra
except ImportError as error:
    raise MissingExtraError("cotengra is not installed. Install it with: pip install 'tnkit[interop]'.") from error

__all__ = ["CotengraPaths", "paths"]


class CotengraPaths(PathOptimizer):  # type: ignore[misc]
    """Random greedy trees, the best of them improved by exact search in its subtrees; the same path every time.

    Args:
        max_repeats: greedy trees to try.
        seed: of the random choices.
    """

    def __init__(self, max_repeats: int = 64, seed: int = 0) -> None:
        self.max_repeats = max_repeats
        self.seed = seed

    def __call__(self, inputs: Any, output: Any, size_dict: Any, memory_limit: Any = None) -> Any:
        """The path, as opt_einsum asks for it."""
        terms = [tuple(sorted(term)) for term in inputs]
        if len(terms) <= 2:
            return [tuple(range(len(terms)))]
        greedy = cotengra.RandomGreedyOptimizer(max_repeats=self.max_repeats, seed=self.seed, parallel=False)
        tree = greedy.search(terms, tuple(sorted(output)), dict(size_dict))
        tree.subtree_reconfigure_(seed=self.seed)
        return [tuple(step) for step in tree.get_path()]


def paths() -> CotengraPaths:
    """A fresh optimizer; what the provider "path:cotengra" gives."""
    return CotengraPaths()


PROVIDERS.register("path:cotengra", paths)
