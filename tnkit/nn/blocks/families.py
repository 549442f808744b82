"""Families: where the parts of a transformer's blocks are. A new one is one entry of a table.

A family is known by the names of the layers in its blocks, whatever the model around them is called. transformers is
not imported.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tnkit.errors import OptionError
from tnkit.registry import Registry

__all__ = ["FAMILIES", "Block", "Family", "Heads", "blocks_in"]


@dataclass(frozen=True, slots=True)
class Family:
    """Names inside a block.

    Attributes:
        queries: the layer that gives queries; the same as `keys` and `values` where one layer gives all.
        keys: likewise.
        values: likewise.
        output: of the attention.
        ups: layers whose products go through the activation; gated ones have two.
        down: of the MLP.
        rotary: whether dimensions i and i + h/2 of a head turn together.
        unfit: names of modules in the attention that tie a head's dimensions together, so that none may go.
    """

    queries: str
    keys: str
    values: str
    output: str
    ups: tuple[str, ...]
    down: str
    rotary: bool = False
    unfit: tuple[str, ...] = ("q_norm", "k_norm")

    @property
    def parts(self) -> tuple[str, ...]:
        """All names."""
        return (*dict.fromkeys((self.queries, self.keys, self.values)), self.output, *self.ups, self.down)


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of an attention.

    Attributes:
        queries: heads of queries.
        keys: heads of keys and values; each serves queries / keys heads of queries.
        size: dimensions of a head.
    """

    queries: int
    keys: int
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a model.

    Attributes:
        name: of the block's module.
        family: names inside.
        heads: sizes of its attention.
    """

    name: str
    family: Family
    heads: Heads

    def path(self, part: str) -> str:
        """The full name of a part."""
        return f"{self.name}.{part}" if self.name else part

    @property
    def fused(self) -> bool:
        """Whether one layer gives queries, keys and values, one after the other."""
        return self.family.queries == self.family.values


#: By the model type of the family's first member; those that follow its pattern are found by their layers' names.
FAMILIES: Registry[Family] = Registry("family of transformers")

_LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FAMILIES.register("llama", Family(*_LLAMA, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", rotary=True))
_OPT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
FAMILIES.register("opt", Family(*_OPT, ("fc1",), "fc2"))
FAMILIES.register("gpt2", Family(*("attn.c_attn",) * 3, "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"))
_BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
FAMILIES.register("bert", Family(*_BERT, ("intermediate.dense",), "output.dense"))


def blocks_in(model: nn.Module) -> list[Block]:
    """The blocks of a model whose family is known, in order.

    Raises:
        OptionError: there is none, or the model has no configuration that tells its heads.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_attention_heads", None)
    names = dict(model.named_modules())
    found = []
    for name in names:
        inside = f"{name}." if name else ""
        for family in FAMILIES.items().values():
            if all(inside + part in names for part in family.parts):
                heads = None if count is None else _heads(config, count, names[inside + family.output], family)
                if heads is not None:
                    found.append(Block(name, family, heads))
                break
    if not found:
        known = ", ".join(FAMILIES)
        raise OptionError(
            f"compress_blocks: this {type(model).__name__} has no blocks of a known family ({known}), "
            "or no config with num_attention_heads. Use tk.nn.compress, or register its family in tnkit.nn.blocks."
        )
    return found


def _heads(config: object, count: int, output: nn.Module, family: Family) -> Heads | None:
    shape = getattr(output, "weight", None)
    if shape is None:
        return None
    width = shape.shape[0] if family.output.endswith("c_proj") else shape.shape[1]
    groups = getattr(config, "num_key_value_heads", None) or count
    return Heads(count, groups, width // count)
