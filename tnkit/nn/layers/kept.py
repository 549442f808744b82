"""KeptWeight: the dense weight that factors stand for, kept from call to call while they stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["KeptWeight"]


class KeptWeight:
    """One dense weight and what it was made from; copies and files hold nothing of it.

    A change of the factors is seen by their place in memory, their type, and the counter that torch raises at every
    change in place, but for changes by `.data`, which raise no counter.

    Example:
        >>> import torch
        >>> factor, kept, made = torch.ones(2), KeptWeight(), []
        >>> def make():
        ...     made.append(1)
        ...     return 2 * factor
        >>> for _ in range(3):
        ...     _ = kept.of([factor], make)
        >>> _ = factor.add_(1)
        >>> kept.of([factor], make), len(made)
        (tensor([4., 4.]), 2)
    """

    __slots__ = ("_held", "_key", "_weight")

    def __init__(self) -> None:
        """Of nothing yet."""
        self._key: tuple[Any, ...] = ()
        self._held: tuple[Tensor, ...] = ()  # so that other factors cannot come to lie where these did
        self._weight: Tensor | None = None

    @staticmethod
    def may_keep(factors: Iterable[Tensor]) -> bool:
        """Whether nothing asks for derivatives by these just now, and torch would count their changes."""
        asked, forward = torch.is_grad_enabled(), torch.autograd.forward_ad._current_level >= 0
        return not forward and all(
            type(t) in (Tensor, torch.nn.Parameter) and not t.is_inference() and not (asked and t.requires_grad)
            for t in factors
        )

    def of(self, factors: Iterable[Tensor], make: Callable[[], Tensor]) -> Tensor:
        """The weight that is kept if these are the factors it was made from, otherwise what `make` makes."""
        factors = tuple(factors)
        try:
            key = tuple((t.data_ptr(), t._version, t.shape, t.dtype) for t in factors)
        except RuntimeError:  # what a transform of torch.func wraps lies nowhere
            return make()
        if self._weight is None or key != self._key:
            self.drop()
            with torch.inference_mode(False), torch.no_grad():
                self._weight = make().contiguous()
                self._key, self._held = key, tuple(t.detach() for t in factors)
        return self._weight

    def drop(self) -> None:
        """Keep nothing."""
        self._key, self._held, self._weight = (), (), None

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptWeight:
        """An empty one."""
        return KeptWeight()

    def __reduce__(self) -> tuple[type[KeptWeight], tuple[()]]:
        """An empty one."""
        return KeptWeight, ()
