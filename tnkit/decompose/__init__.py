"""Decomposition: one algorithm a file, each a registered `Method`; a rule that chooses; the true error."""

from tnkit.decompose.als import ALS
from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.batch import BatchFit, decompose_batch
from tnkit.decompose.blast import BlastFit
from tnkit.decompose.btd_als import BTDALS
from tnkit.decompose.choose import as_method, asked_for, choose_method, methods_for
from tnkit.decompose.cp_als import CPALS
from tnkit.decompose.cross import Cross
from tnkit.decompose.hooi import HOOI
from tnkit.decompose.ht_svd import HTSVD
from tnkit.decompose.matrix_svd import MatrixSVD
from tnkit.decompose.measure import relative_error
from tnkit.decompose.mode_order import REORDERED, run_reordered
from tnkit.decompose.quasi_newton import QuasiNewton
from tnkit.decompose.rank_adaptive import RankAdaptiveHOOI, adapt_ranks
from tnkit.decompose.ring_als import RingALS
from tnkit.decompose.ring_svd import RingSVD
from tnkit.decompose.rounding_fallback import round_dense
from tnkit.decompose.run import error_floor, run, scaled
from tnkit.decompose.slab_methods import SlabTT, SlabTucker, slab_error
from tnkit.decompose.source_method import SourceFit, SourceMethod, SourceProblem, run_source
from tnkit.decompose.sparse_cp_als import SparseCPALS
from tnkit.decompose.sparse_error import sparse_error
from tnkit.decompose.sparse_tt import SparseTT
from tnkit.decompose.sparse_tucker import SparseTucker
from tnkit.decompose.st_hosvd import STHOSVD
from tnkit.decompose.streaming import Streaming, StreamingTT, StreamingTucker
from tnkit.decompose.tree_svd import TreeSVD
from tnkit.decompose.tt_svd import TTSVD
from tnkit.decompose.tubal_svd import TubalSVDMethod

__all__ = [
    "ALS",
    "BTDALS",
    "CPALS",
    "HOOI",
    "HTSVD",
    "REORDERED",
    "STHOSVD",
    "TTSVD",
    "BatchFit",
    "BlastFit",
    "Cross",
    "Fit",
    "MatrixSVD",
    "Method",
    "Problem",
    "QuasiNewton",
    "RankAdaptiveHOOI",
    "RingALS",
    "RingSVD",
    "SlabTT",
    "SlabTucker",
    "SourceFit",
    "SourceMethod",
    "SourceProblem",
    "SparseCPALS",
    "SparseTT",
    "SparseTucker",
    "Streaming",
    "StreamingTT",
    "StreamingTucker",
    "Target",
    "TreeSVD",
    "TubalSVDMethod",
    "adapt_ranks",
    "as_method",
    "asked_for",
    "choose_method",
    "decompose_batch",
    "error_floor",
    "methods_for",
    "relative_error",
    "round_dense",
    "run",
    "run_reordered",
    "run_source",
    "scaled",
    "slab_error",
    "sparse_error",
]
