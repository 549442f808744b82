"""Which method: a public rule that says why.

The first method of the format's list that meets everything asked is taken; a format without a list takes the first
registered method that fits it.
"""

from __future__ import annotations

from typing import Any

from tnkit.decompose.base import Method, Target
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.registry import METHODS

__all__ = ["as_method", "asked_for", "choose_method", "methods_for"]

#: Preference by format, best first.
PREFERRED: dict[str, tuple[str, ...]] = {
    "tt": ("tt_svd",),
    "ttm": ("tt_svd",),
    "tucker": ("st_hosvd", "hooi"),
    "ht": ("ht_svd",),
    "lowrank": ("matrix_svd",),
    "btt": ("matrix_svd",),
    "monarch": ("matrix_svd",),
    "kron": ("matrix_svd",),
    "tubal": ("tubal_svd",),
    "tr": ("ring_als", "ring_svd"),
    "cp": ("cp_als",),
    "btd": ("btd_als",),
    "blast": ("blast",),
    "network": ("tree_svd", "als"),
}

#: What goes before that list where ranks alone are asked: a direct method's error can then be lowered at no cost.
BY_RANKS: dict[str, tuple[str, ...]] = {"tucker": ("hooi",)}

#: The same where an error alone is asked: what the sweeps gain makes the core smaller.
BY_EPS: dict[str, tuple[str, ...]] = {"tucker": ("hooi",)}


def asked_for(target: Target) -> frozenset[str]:
    """Which of rank, eps and budget are given."""
    given = {"rank": target.ranks, "eps": target.eps, "budget": target.max_params}
    return frozenset(name for name, value in given.items() if value is not None)


def methods_for(layout: Layout, target: Target, needs: str = "dense") -> list[Method]:
    """The methods that fit this layout, meet what is asked and work on this kind of array, best first."""
    key = layout.name if layout.name in PREFERRED else "network"
    asked = asked_for(target)
    before = BY_RANKS.get(key, ()) if asked == {"rank"} else BY_EPS.get(key, ()) if asked == {"eps"} else ()
    first = [name for name in dict.fromkeys([*before, *PREFERRED[key]]) if name in METHODS]
    names = [*first, *(name for name in METHODS if name not in first)]
    found: list[Method] = []
    for name in names:
        method: Method = METHODS.get(name).automatic()
        fits = method.needs == needs and method.takes(key) and method.suits(layout)
        if fits and asked <= method.accepts:
            found.append(method)
    return found


def choose_method(layout: Layout, target: Target, needs: str = "dense") -> tuple[Method, str]:
    """The method for a layout, and why.

    Raises:
        OptionError: no registered method does it.
    """
    found = methods_for(layout, target, needs)
    if not found:
        asked = " and ".join(sorted(asked_for(target)))
        raise OptionError(f"No method decomposes {_what(needs)} as {layout.name} by {asked}. {_possible(needs)}")
    method = found[0]
    others = [m.name for m in found[1:]]
    why = method.summary + (f" (also possible: {', '.join(others)})" if others else "")
    return method, why


_WHAT = {"dense": "an array", "entries": "a function", "sparse": "sparse coordinates", "slabs": "data read in slabs"}


def _what(needs: str) -> str:
    return _WHAT.get(needs, needs)


def _possible(needs: str) -> str:
    pairs = [(name, METHODS.get(name)) for name in METHODS]
    known = [f"{name} ({', '.join(m.formats)})" for name, m in pairs if m.needs == needs]
    return f"Methods for {_what(needs)}: {'; '.join(known) or 'none'}."


def as_method(method: Any, layout: Layout, target: Target, needs: str = "dense") -> tuple[Method, str]:
    """A method from a name, a config or "auto", with the reason.

    A method for sources may be asked for on a dense array, not the other way round.

    Raises:
        UnknownNameError: a name that is not registered.
        OptionError: a method that does not fit the format, or does not accept what is asked.
    """
    if isinstance(method, str) and method == "auto":
        return choose_method(layout, target, needs)
    chosen = METHODS.get(method)() if isinstance(method, str) else method
    if not isinstance(chosen, Method):
        raise OptionError(f"method={method!r} is not a method. Give 'auto', one of {', '.join(METHODS)}, or a config.")
    key = layout.name if layout.name in PREFERRED else "network"
    if needs not in ("dense", chosen.needs):
        raise OptionError(f"Method {chosen.name!r} does not work on {_what(needs)}. {_possible(needs)}")
    possible = [m.name for m in methods_for(layout, Target(ranks=()), needs)]
    if not chosen.takes(key) or not chosen.suits(layout):
        raise OptionError(f"Method {chosen.name!r} does not fit {layout.name}. Methods that do: {', '.join(possible)}.")
    missing = asked_for(target) - chosen.accepts
    if missing:
        raise OptionError(
            f"Method {chosen.name!r} does not take {' and '.join(sorted(missing))}=; "
            f"it takes {', '.join(sorted(chosen.accepts))}. Use method='auto' for the others."
        )
    return chosen, "asked for"
