"""Whole blocks of transformers, without gradients: fewer neurons, fewer dimensions of heads, a narrower stream."""

from tnkit.nn.blocks.compress_blocks import compress_blocks
from tnkit.nn.blocks.families import FAMILIES, Block, Family, blocks_in
from tnkit.nn.blocks.rotate import rotate_blocks

__all__ = ["FAMILIES", "Block", "Family", "blocks_in", "compress_blocks", "rotate_blocks"]
