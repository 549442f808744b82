"""Scope: which layers of a model are compressed, by which specification, and why the others are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn

from tnkit.errors import OptionError, UnknownNameError
from tnkit.nn.layers.layer_type import dtype_of, layer_type_of, require_weight, why_not
from tnkit.nn.layers.recipe import Recipe, find_recipe
from tnkit.nn.specs import LayerSpec

__all__ = ["Item", "Rules", "Scope", "find_scope", "matches"]

Rules: TypeAlias = Mapping[str, LayerSpec | None]


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A weight to be compressed.

    Attributes:
        name: of the first layer that holds it.
        layer: that layer.
        recipe: how it is compressed.
        spec: resolved for this layer.
        tied: names of further layers with the same weight.
    """

    name: str
    layer: nn.Module
    recipe: Recipe
    spec: LayerSpec
    tied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What is in scope, and what stays dense with the reason.

    Attributes:
        items: one for each weight.
        left: reason by layer name, for layers that look compressible and are left dense.
    """

    items: tuple[Item, ...]
    left: dict[str, str]


def matches(rule: str, name: str) -> bool:
    """Whether a rule's key means a module: its name or that of a module above it, a glob, or "re:pattern" (whole name).

    Example:
        >>> from tnkit.nn.scope import matches
        >>> matches("encoder", "encoder.layer.0"), matches("*.fc?", "a.fc1"), matches("re:.*[02]", "layer.1")
        (True, True, False)
    """
    if rule.startswith("re:"):
        return re.fullmatch(rule[3:], name) is not None
    if any(c in rule for c in "*?["):
        return fnmatchcase(name, rule)
    return rule in ("", name) or name.startswith(rule + ".")


def find_scope(
    model: nn.Module,
    rules: Rules | None = None,
    who: str = "compress",
    *,
    values: bool = True,
    default: Callable[[LayerSpec], LayerSpec] = lambda spec: spec,
) -> Scope:
    """The layers of a model that rules and layer types admit; without `values`, weights may be on the meta device.

    Args:
        model: to look through.
        rules: as for `compress`.
        who: asks, for messages.
        values: whether weights must have values.
        default: what takes the place of the specification of a layer's type, where no rule names the layer.

    Raises:
        OptionError: nothing is in scope, a rule is no rule, or a specification does not apply to a layer that it names.
        UnknownNameError: a rule matches no module.
        DataError: weights without values, or with NaN or infinite ones.
        DTypeError: weights that are not plain floating point.
    """
    rules = {} if rules is None else rules
    _require_rules(model, rules, who)
    left: dict[str, str] = {}
    chosen: dict[str, tuple[nn.Module, LayerSpec]] = {}
    for name, layer in model.named_modules():
        reason = why_not(layer)
        kind = layer_type_of(layer)
        known = reason is None and kind is not None
        rule = next((r for r in rules if matches(r, name)), None)
        own = None if kind is None or rule is not None else kind.default(layer)
        asked = rules[rule] if rule is not None else None if own is None else default(own)
        if reason is not None:
            left[name] = reason
        elif kind is None and rule is None and (stacks := _stacks(layer)):
            left[name] = f"its stacked matrices {stacks} are used in a way that is not known"
        elif known and asked is None:
            left[name] = f"excluded by rule {rule!r}" if rule is not None else "compressed only where a rule names it"
        elif known and asked is not None:
            chosen[name] = (layer, asked)
        elif rule == name and rule and asked is not None and not any(True for _ in layer.children()):
            find_recipe(layer, asked, name)  # a rule that names just this layer: say why it cannot be
    items = _tied_together(model, chosen, left, values=values)
    if not items:
        why = "; ".join(f"{n}: {r}" for n, r in list(left.items())[:5])
        raise OptionError(
            f"{who}: no layer of this {type(model).__name__} can be compressed{' (' + why + ')' if why else ''}. "
            "Linear layers, convolutions, attention and recurrent layers that no rule excludes are in scope; "
            "embeddings are where a rule names them."
        )
    return Scope(tuple(items), left)


def _stacks(layer: nn.Module) -> str:
    """The names and shapes of several matrices in one parameter, as experts are held; "" where there are none."""
    found = {n: tuple(p.shape) for n, p in layer._parameters.items() if isinstance(p, Tensor) and p.ndim == 3}
    return ", ".join(f"{n} {shape}" for n, shape in found.items() if min(shape) > 1)


def _require_rules(model: nn.Module, rules: Rules, who: str) -> None:
    if not isinstance(rules, Mapping):
        raise OptionError(
            f"{who}: rules is a {type(rules).__name__}. Give a dict of module name, glob or 're:…' to specification."
        )
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for rule, spec in rules.items():
        if spec is not None and not isinstance(spec, LayerSpec):
            raise OptionError(
                f"{who}: rules[{rule!r}] is {spec!r}. Give a layer specification such as tk.nn.LowRankLayer(keep=0.5), "
                "or None to leave it dense."
            )
        try:
            found = any(matches(rule, name) for name in names)
        except re.error as error:
            raise OptionError(f"{who}: rule {rule!r} is no regular expression: {error}.") from None
        if not found:
            near = difflib.get_close_matches(rule, names, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownNameError(f"{who}: rule {rule!r} matches no module of this {type(model).__name__}.{hint}")


def _tied_together(
    model: nn.Module, chosen: dict[str, tuple[nn.Module, LayerSpec]], left: dict[str, str], *, values: bool
) -> list[Item]:
    """One item for each weight; a weight that something else holds too stays dense."""
    owners = _owners(model)
    items: list[Item] = []
    done: set[str] = set()
    for name, (layer, spec) in chosen.items():
        if name in done:
            continue
        recipe = find_recipe(layer, spec, name)
        key = _weight_key(layer)
        sharing = [other for other in owners.get(key, [name]) if other != name] if key is not None else []
        strangers = [
            o
            for o in sharing
            if o not in chosen
            or chosen[o][1] != spec
            or find_recipe(*chosen[o], o).view(chosen[o][0]) != recipe.view(layer)
        ]
        if strangers:
            left[name] = f"its weight is tied to {', '.join(strangers)}, which stays as it is"
            continue
        dtype = require_weight(layer, name).dtype if values else dtype_of(layer)
        items.append(Item(name, layer, recipe, spec.resolved(dtype), tuple(sharing)))
        done.update(sharing)
    return items


def _weight_key(layer: nn.Module) -> int | None:
    weight = layer._parameters.get("weight")
    return None if weight is None else id(weight)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """By parameter, the modules that hold it (each module once)."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in dict.fromkeys(p for p in module._parameters.values() if isinstance(p, Tensor)):
            owners.setdefault(id(parameter), []).append(name)
    return owners
