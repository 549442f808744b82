"""A part of very many entries on which ranks and starts are tried, and the way from its network to that of the whole.

Some positions of the longest mode are kept, with all of their entries, so that a row there has as many entries as
before. All other nodes are those of the whole network; the rows that were left out follow from them by one
least-squares step.

Example:
    >>> import torch
    >>> from tnkit.completion import Observations
    >>> from tnkit.formats import as_spec
    >>> indices = torch.cartesian_prod(torch.arange(40), torch.arange(5))
    >>> obs = Observations(indices, torch.ones(200), (40, 5))
    >>> part = coarse(obs, as_spec("tt").layout((40, 5)), 50, torch.Generator().manual_seed(0))
    >>> part.observations.n, part.observations.shape
    (50, (10, 5))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tnkit.completion.observations import Observations
from tnkit.formats import Layout

__all__ = ["Coarse", "coarse"]

Tensors = tuple[Tensor, ...]
#: A part of fewer positions than this tells nothing of the mode.
LEAST = 8


@dataclass(frozen=True, slots=True, eq=False)
class Coarse:
    """Some positions of one mode with their entries.

    Attributes:
        observations: the entries, with the positions counted anew.
        layout: the format over the smaller shape.
        whole: the format over the whole shape.
        kept: (n,) the positions, ascending.
        parameter: the place of the node with that mode among the parameters.
        node: its place among all nodes.
        axis: of that mode in it.
    """

    observations: Observations
    layout: Layout
    whole: Layout
    kept: Tensor
    parameter: int
    node: int
    axis: int

    def lift(self, tensors: Sequence[Tensor]) -> Tensors:
        """The network over the whole shape, with zeros in the rows that are not known.

        Args:
            tensors: over the part.
        """
        lifted = list(tensors)
        small = lifted[self.parameter]
        shape = list(small.shape)
        shape[self.axis] = self.whole.sizes[self.whole.topology.inputs[self.node][self.axis]]
        lifted[self.parameter] = small.new_zeros(shape).index_copy(self.axis, self.kept, small)
        return tuple(lifted)


def coarse(obs: Observations, layout: Layout, most: int, rng: torch.Generator) -> Coarse | None:
    """About `most` of the entries, or None where there are not many more or the network cannot be cut so.

    Args:
        obs: all entries that may be fitted.
        layout: of the network.
        most: entries of the part.
        rng: chooses the positions.
    """
    if obs.n <= 2 * most or layout.tensorization is not None:
        return None
    topology = layout.topology
    mode = max(range(obs.ndim), key=lambda k: obs.shape[k])
    label = topology.output[mode]
    holders = [(p, k) for p, k in enumerate(topology.parameters) if label in topology.inputs[k]]
    if len(holders) != 1 or len(topology.nodes_of(label)) != 1:
        return None
    size = obs.shape[mode]
    count = round(size * most / obs.n)
    if count < LEAST:
        return None
    order = torch.randperm(size, generator=rng, device=rng.device)
    kept = order[:count].to(obs.indices.device).sort().values
    place = obs.indices.new_full((size,), -1)
    place[kept] = torch.arange(count, device=place.device)
    moved = place[obs.indices[:, mode]]
    picks = moved >= 0
    if not bool(picks.any()):
        return None
    shape = tuple(count if k == mode else n for k, n in enumerate(obs.shape))
    smaller = replace(layout, shape=shape, sizes={**layout.sizes, label: count}, max_ranks=None)
    parameter, node = holders[0]
    axis = topology.inputs[node].index(label)
    part = obs.take(picks).moved(mode, moved[picks], count)
    return Coarse(part, smaller, layout, kept, parameter, node, axis)
