"""Formats: a tensor as a small network, with operations, ranks, budgets, random values and files."""

from tnkit.formats import arithmetic, indexing, operations, orthogonal, rounding, rounding_sketched
from tnkit.formats.base import FORMAT_CLASSES, Format
from tnkit.formats.budget import Budget, as_budget
from tnkit.formats.chains import TT, RingSpec, TensorRing, TTSpec
from tnkit.formats.cp import CP, CPSpec
from tnkit.formats.ht import HierarchicalTucker, HTSpec, Tree, balanced_tree, linear_tree, tree_leaves, tree_nodes
from tnkit.formats.io import load, save
from tnkit.formats.layout import FormatSpec, Layout, matricization
from tnkit.formats.matrices import (
    BLAST,
    BLASTSpec,
    BlockTT,
    BlockTTSpec,
    KroneckerSum,
    KronSpec,
    LowRank,
    LowRankSpec,
    MonarchSpec,
    TTMatrix,
    TTMatrixSpec,
)
from tnkit.formats.network import EquationSpec, Network, Tensorized
from tnkit.formats.random import random_format, random_tensors
from tnkit.formats.ranks import RankLike, grow_within, ranks_within, resolve_ranks
from tnkit.formats.specs import as_spec
from tnkit.formats.tubal import TubalSpec, TubalSVD
from tnkit.formats.tucker import BlockTerm, BTDSpec, Tucker, TuckerSpec

__all__ = [
    "BLAST",
    "CP",
    "FORMAT_CLASSES",
    "TT",
    "BLASTSpec",
    "BTDSpec",
    "BlockTT",
    "BlockTTSpec",
    "BlockTerm",
    "Budget",
    "CPSpec",
    "EquationSpec",
    "Format",
    "FormatSpec",
    "HTSpec",
    "HierarchicalTucker",
    "KronSpec",
    "KroneckerSum",
    "Layout",
    "LowRank",
    "LowRankSpec",
    "MonarchSpec",
    "Network",
    "RankLike",
    "RingSpec",
    "TTMatrix",
    "TTMatrixSpec",
    "TTSpec",
    "TensorRing",
    "Tensorized",
    "Tree",
    "TubalSVD",
    "TubalSpec",
    "Tucker",
    "TuckerSpec",
    "arithmetic",
    "as_budget",
    "as_spec",
    "balanced_tree",
    "grow_within",
    "indexing",
    "linear_tree",
    "load",
    "matricization",
    "operations",
    "orthogonal",
    "random_format",
    "random_tensors",
    "ranks_within",
    "resolve_ranks",
    "rounding",
    "rounding_sketched",
    "save",
    "tree_leaves",
    "tree_nodes",
]
