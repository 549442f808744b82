"""Layer specifications, one file each: what a layer is to become. Importing this registers them."""

from tnkit.nn.specs.any_of import AnyOf
from tnkit.nn.specs.base import LAYER_SPECS, Execution, Fitted, Floats, Ints, LayerSpec, RankGrid
from tnkit.nn.specs.channel_svd import ChannelSVD
from tnkit.nn.specs.common_rows import CommonRows
from tnkit.nn.specs.cp import CPLayer
from tnkit.nn.specs.low_rank import LowRankLayer
from tnkit.nn.specs.network import NetworkLayer
from tnkit.nn.specs.sparse import SparseLayer
from tnkit.nn.specs.spatial_svd import SpatialSVD
from tnkit.nn.specs.tucker2 import Tucker2

__all__ = [
    "LAYER_SPECS",
    "AnyOf",
    "CPLayer",
    "ChannelSVD",
    "CommonRows",
    "Execution",
    "Fitted",
    "Floats",
    "Ints",
    "LayerSpec",
    "LowRankLayer",
    "NetworkLayer",
    "RankGrid",
    "SparseLayer",
    "SpatialSVD",
    "Tucker2",
]
