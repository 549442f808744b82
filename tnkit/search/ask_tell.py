"""Drive a search by hand: ask for proposals, fit them in any way, tell what came out.

Example:
    >>> import tnkit as tk
    >>> from tnkit.search import AskTell, TreeSearch
    >>> x = tk.random_format("tt", (5, 6, 7), 2, rng=0).to_dense()
    >>> talk = AskTell.over(x, TreeSearch(), eps=1e-6)
    >>> while proposals := talk.ask():
    ...     talk.tell([talk.fit(proposal) for proposal in proposals])
    >>> talk.best.graph.n_params
    48
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tnkit.arrays import ArrayLike, as_tensor, require_finite
from tnkit.errors import OptionError, ShapeError
from tnkit.rng import RngLike, generator
from tnkit.search.objective import DenseObjective, Trial
from tnkit.search.proposer import Proposal, Proposer, Setting
from tnkit.solvers import Control

__all__ = ["AskTell"]


class AskTell:
    """A conversation with a proposer.

    Args:
        proposer: the algorithm.
        setting: what it knows.

    Attributes:
        setting: what the proposer knows; `setting.bounds` holds what it has proved.
        best: of the trials that were told, by the objective's score; None before the first.
    """

    def __init__(self, proposer: Proposer, setting: Setting) -> None:
        self.setting = setting
        self.best: Trial | None = None
        self._talk = proposer.propose(setting)
        self._asked: list[Proposal] | None = None
        self._answers: list[Trial | None] | None = None
        self._over = False

    @staticmethod
    def over(
        x: ArrayLike,
        proposer: Proposer,
        *,
        eps: float | None = None,
        max_params: int | None = None,
        shape: Sequence[int] | None = None,
        rng: RngLike = 0,
    ) -> AskTell:
        """About a dense array, which is scaled to norm 1: the tensors of trials are those of x/‖x‖.

        Args:
            x: the array.
            proposer: the algorithm.
            eps: relative error that is to be reached with the fewest numbers.
            max_params: entries within which the error is to be least.
            shape: a reshaping of the array.
            rng: a seed or a generator.

        Raises:
            OptionError: neither eps nor a size.
            ShapeError: a shape of another number of entries, or an array of norm 0.
        """
        if eps is None and max_params is None:
            raise OptionError("A search needs eps= or max_params=.")
        tensor = as_tensor(x).tensor
        norm = require_finite(tensor)
        sizes = tuple(tensor.shape if shape is None else shape)
        if prod(sizes) != tensor.numel() or norm == 0:
            raise ShapeError(f"An array of shape {tuple(tensor.shape)} and norm {norm:.3g} has no shape {sizes}.")
        gen = generator(rng, tensor.device)
        objective = DenseObjective(
            (tensor / norm).reshape(sizes), 1.0, eps=eps, max_params=max_params, rng=gen, control=Control()
        )
        return AskTell(proposer, Setting(objective, gen, {}))

    def ask(self) -> list[Proposal]:
        """The graphs that are to be fitted next; the same again until they are told of; none at the end.

        A proposer may ask for nothing and go on; such rounds are passed over.
        """
        while self._asked is None and not self._over:
            try:
                asked = next(self._talk) if self._answers is None else self._talk.send(self._answers)
            except StopIteration:
                self._over = True
                break
            self._asked = asked or None
            self._answers = []
        return list(self._asked or [])

    def tell(self, trials: Sequence[Trial | None]) -> None:
        """What came out, one for each proposal that was asked for; None for those that were left out.

        Raises:
            OptionError: another number of trials, or nothing was asked.
        """
        expected = 0 if self._asked is None else len(self._asked)
        if len(trials) != expected or expected == 0:
            raise OptionError(f"{expected} proposals wait for an answer, {len(trials)} were told. Call ask() first.")
        self._answers, self._asked = list(trials), None
        score = self.setting.objective.score
        self.best = min([t for t in (self.best, *trials) if t is not None], key=score, default=None)

    def fit(self, proposal: Proposal) -> Trial:
        """The fit that `tk.search` would do."""
        objective = self.setting.objective
        if proposal.free_ranks:
            return objective.fit_tree(proposal.graph, proposal.parent)
        return objective.fit(proposal.graph, proposal.parent, steps=proposal.steps, starts=proposal.starts)
