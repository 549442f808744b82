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
        attention: the layers that give queries, keys and values (one name three times where one gives all), and the
            output of the attention.
        ups: layers whose products go through the activation; gated ones have two.
        down: of the MLP.
        norms: of the attention and of the MLP: before them, or after their residual sum where `post_norm` says so.
        stack: the list of blocks, inside the model's body.
        embeddings: tables whose sum comes to the first block, inside the body.
        last_norm: after the last block, or, with `post_norm`, the one before the first; inside the body.
        rotary: whether dimensions i and i + h/2 of a head turn together.
        unfit: names of modules in the attention that tie a head's dimensions together, so that none may go.
    """

    attention: tuple[str, str, str, str]
    ups: tuple[str, ...]
    down: str
    norms: tuple[str, str]
    stack: str
    embeddings: tuple[str, ...]
    last_norm: str
    rotary: bool = False
    post_norm: bool = False
    unfit: tuple[str, ...] = ("q_norm", "k_norm")

    @property
    def queries(self) -> str:
        """The layer that gives queries."""
        return self.attention[0]

    @property
    def keys(self) -> str:
        """The layer that gives keys."""
        return self.attention[1]

    @property
    def values(self) -> str:
        """The layer that gives values."""
        return self.attention[2]

    @property
    def output(self) -> str:
        """The layer after the attention."""
        return self.attention[3]

    @property
    def parts(self) -> tuple[str, ...]:
        """All names."""
        return (*dict.fromkeys(self.attention), *self.ups, self.down)


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


def _under(name: str, queries: str, keys: str, values: str, output: str) -> tuple[str, str, str, str]:
    return f"{name}.{queries}", f"{name}.{keys}", f"{name}.{values}", f"{name}.{output}"


#: By the model type of the family's first member; those that follow its pattern are found by their layers' names.
FAMILIES: Registry[Family] = Registry("family of transformers")

FAMILIES.register(
    "llama",
    Family(
        attention=_under("self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
        ups=("mlp.gate_proj", "mlp.up_proj"),
        down="mlp.down_proj",
        norms=("input_layernorm", "post_attention_layernorm"),
        stack="layers",
        embeddings=("embed_tokens",),
        last_norm="norm",
        rotary=True,
    ),
)
FAMILIES.register(
    "opt",
    Family(
        attention=_under("self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
        ups=("fc1",),
        down="fc2",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        stack="layers",
        embeddings=("embed_tokens", "embed_positions"),
        last_norm="final_layer_norm",
    ),
)
FAMILIES.register(
    "gpt2",
    Family(
        attention=_under("attn", "c_attn", "c_attn", "c_attn", "c_proj"),
        ups=("mlp.c_fc",),
        down="mlp.c_proj",
        norms=("ln_1", "ln_2"),
        stack="h",
        embeddings=("wte", "wpe"),
        last_norm="ln_f",
    ),
)
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
FAMILIES.register(
    "bert",
    Family(
        attention=_under("attention", "self.query", "self.key", "self.value", "output.dense"),
        ups=("intermediate.dense",),
        down="output.dense",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
        stack="encoder.layer",
        embeddings=tuple(f"embeddings.{name}" for name in _TABLES),
        last_norm="embeddings.LayerNorm",
        post_norm=True,
    ),
)


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
