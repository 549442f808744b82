"""Layers: compress trained models, layer by layer, by what their inputs really are.

Example:
    >>> import torch
    >>> from tnkit import nn as tnn
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3))
    >>> small, report = tnn.compress(model, target=tnn.Budget(params=0.5), calib=[torch.ones(2, 3, 8, 8)])
    >>> report.kept <= 0.5
    True
"""

from tnkit.formats import Budget
from tnkit.nn.allocate import Ladder, allocate, allocate_uniform
from tnkit.nn.analysis import Analysis, LayerAnalysis
from tnkit.nn.analyze import analyze
from tnkit.nn.bench import bench
from tnkit.nn.blocks import compress_blocks, rotate_blocks
from tnkit.nn.calibrate import calibrate
from tnkit.nn.compress import LayerResult, compress, compress_layer
from tnkit.nn.evbmf import evbmf_rank, evbmf_rules
from tnkit.nn.io import load, save
from tnkit.nn.large import compress_files
from tnkit.nn.layers import (
    FactoredConv,
    FactoredConv1D,
    FactoredEmbedding,
    FactoredEmbeddingBag,
    FactoredLinear,
    FactoredModule,
    LayerType,
)
from tnkit.nn.pivot import pivot_rows
from tnkit.nn.recover import RecoverReport, recover
from tnkit.nn.report import LayerReport, ModelReport
from tnkit.nn.specs import (
    AnyOf,
    ChannelSVD,
    CommonRows,
    CPLayer,
    LayerSpec,
    LowRankLayer,
    NetworkLayer,
    SparseLayer,
    SpatialSVD,
    Tucker2,
)
from tnkit.nn.stats import InputStats
from tnkit.nn.surgery import materialize, restore_
from tnkit.nn.views import WeightView
from tnkit.nn.weighted import weighted_basis, weighted_lowrank

__all__ = [
    "Analysis",
    "AnyOf",
    "Budget",
    "CPLayer",
    "ChannelSVD",
    "CommonRows",
    "FactoredConv",
    "FactoredConv1D",
    "FactoredEmbedding",
    "FactoredEmbeddingBag",
    "FactoredLinear",
    "FactoredModule",
    "InputStats",
    "Ladder",
    "LayerAnalysis",
    "LayerReport",
    "LayerResult",
    "LayerSpec",
    "LayerType",
    "LowRankLayer",
    "ModelReport",
    "NetworkLayer",
    "RecoverReport",
    "SparseLayer",
    "SpatialSVD",
    "Tucker2",
    "WeightView",
    "allocate",
    "allocate_uniform",
    "analyze",
    "bench",
    "calibrate",
    "compress",
    "compress_blocks",
    "compress_files",
    "compress_layer",
    "evbmf_rank",
    "evbmf_rules",
    "load",
    "materialize",
    "pivot_rows",
    "recover",
    "restore_",
    "rotate_blocks",
    "save",
    "weighted_basis",
    "weighted_lowrank",
]
