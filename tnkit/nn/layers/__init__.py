"""Compressed layers, one file for each layer type; importing this registers their recipes."""

from tnkit.nn.layers.conv import Conv2dChannelSVD, Conv2dTucker2, ConvStage, FactoredConv2d
from tnkit.nn.layers.linear import FactoredLinear, LinearLowRank
from tnkit.nn.layers.module import FactoredModule
from tnkit.nn.layers.recipe import Recipe, default_spec, find_recipe, recipes_for

__all__ = [
    "Conv2dChannelSVD",
    "Conv2dTucker2",
    "ConvStage",
    "FactoredConv2d",
    "FactoredLinear",
    "FactoredModule",
    "LinearLowRank",
    "Recipe",
    "default_spec",
    "find_recipe",
    "recipes_for",
]
