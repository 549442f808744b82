"""The objective of a search with any differentiable loss of the dense tensor.

Reference: the greedy search of arXiv 2008.05437 is stated for any differentiable loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tnkit.errors import DataError
from tnkit.formats import random_tensors
from tnkit.network import contract
from tnkit.rng import RngLike, generator
from tnkit.search.graph import Graph
from tnkit.search.objective import Objective, Trial, moved
from tnkit.solvers import Control

__all__ = ["LossObjective"]

_EACH = 5  # iterations for what is a sweep elsewhere


class LossObjective(Objective):
    """Fits graphs by L-BFGS on a loss.

    Args:
        loss: from the dense tensor of a graph to a 0-d tensor, differentiable, 0 or more; it is the error of a trial.
        shape: of the dense tensor.
        target: a loss that is to be reached with the fewest numbers; None where a size is given.
        max_params: the size within which the loss is to be least.
        rng: a seed or a generator.
        time_limit_s: seconds after which no fit goes on.
        variance: of the entries of the dense tensor at a random start.
        dtype: of the tensors.

    Raises:
        DataError: a loss that is not finite at a random start.

    Example:
        >>> import torch
        >>> from tnkit.search.graph import chain
        >>> target = torch.eye(3, dtype=torch.float64)
        >>> objective = LossObjective(lambda x: (x - target).abs().square().sum(), (3, 3), target=1e-6)
        >>> round(objective.fit(chain((3, 3), (2,)), steps=100).error, 4)
        1.0
    """

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        *,
        target: float | None = None,
        max_params: int | None = None,
        rng: RngLike = 0,
        time_limit_s: float | None = None,
        variance: float = 1.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        place = torch.device(device)
        super().__init__(
            shape,
            eps=target,
            max_params=max_params,
            rng=generator(rng, place),
            control=Control().within(time_limit_s),
        )
        self.loss, self.variance = loss, variance
        self.like = torch.empty(0, dtype=dtype, device=place)

    def fit(self, graph: Graph, start: Trial | None = None, *, steps: int = 100, starts: int = 1) -> Trial:
        """The graph at its ranks.

        Args:
            graph: the structure.
            start: a trial over the same nodes.
            steps: of each start; each is five iterations.
            starts: how many; all but the first are random.
        """
        begun = time.perf_counter()
        first = None if start is None else moved(start, graph, self.rng)
        best: tuple[tuple[Tensor, ...], float] | None = None
        for _ in range(starts):
            found = self.descend(graph, self.random(graph) if first is None else first, steps)
            best, first = found if best is None or found[1] < best[1] else best, None
            if self.reached(best[1]) or self.control.out_of_time:
                break
        assert best is not None
        return Trial(graph, best[0], best[1], time.perf_counter() - begun, effort=steps * starts)

    def random(self, graph: Graph) -> tuple[Tensor, ...]:
        """A start."""
        return random_tensors(graph.layout(), graph.bond_ranks(), self.like, self.rng, variance=self.variance)

    def descend(self, graph: Graph, start: tuple[Tensor, ...], steps: int) -> tuple[tuple[Tensor, ...], float]:
        """L-BFGS; the best point, and its loss."""
        tensors = [t.detach().clone().requires_grad_() for t in start]
        optimizer = torch.optim.LBFGS(
            tensors, max_iter=_EACH * steps, line_search_fn="strong_wolfe", tolerance_grad=1e-14, tolerance_change=1e-16
        )
        best, least = start, float("inf")

        def step() -> Tensor:
            nonlocal best, least
            optimizer.zero_grad()
            value = self.loss(contract(graph.topology, tensors))
            number = float(value.detach())
            if number < least:
                best, least = tuple(t.detach().clone() for t in tensors), number
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(step)
        if least == float("inf"):
            raise DataError("The loss is not finite where a search starts. Give variance= for its random starts.")
        return best, least
