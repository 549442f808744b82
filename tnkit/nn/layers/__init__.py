"""Compressed layers, one file for each layer type; importing this registers them."""

from tnkit.nn.layers.conv import ConvType, FactoredConv
from tnkit.nn.layers.embedding import EmbeddingBagType, EmbeddingType, FactoredEmbedding, FactoredEmbeddingBag
from tnkit.nn.layers.hf_conv1d import Conv1DType, FactoredConv1D
from tnkit.nn.layers.layer_type import LayerType, layer_type_of
from tnkit.nn.layers.linear import FactoredLinear, LinearType
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.layers.recipe import Recipe, find_recipe

__all__ = [
    "Conv1DType",
    "ConvType",
    "EmbeddingBagType",
    "EmbeddingType",
    "FactoredConv",
    "FactoredConv1D",
    "FactoredEmbedding",
    "FactoredEmbeddingBag",
    "FactoredLinear",
    "FactoredModule",
    "LayerType",
    "LinearType",
    "Recipe",
    "find_recipe",
    "layer_type_of",
]
