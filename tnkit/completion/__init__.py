"""Completion of arrays that are observed in part: observations, one algorithm a file, and the front door.

Example:
    >>> import numpy as np
    >>> from tnkit.completion import complete
    >>> x = np.add.outer(np.arange(6.0), np.arange(5.0))
    >>> x[1, 2] = np.nan
    >>> done = complete(x, "tt", rank=2)
    >>> round(float(done.filled[1, 2]), 4)
    3.0
"""

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import (
    NOTHING_MISSING,
    CompletionFit,
    CompletionMethod,
    CompletionProblem,
    register,
)
from tnkit.completion.biharmonic import Biharmonic
from tnkit.completion.coordinates import CoordinateCP
from tnkit.completion.dain import DAIN
from tnkit.completion.fctn import FullyConnected
from tnkit.completion.front import complete
from tnkit.completion.functional import FunBaT
from tnkit.completion.functional_network import FunctionalNetwork
from tnkit.completion.gaussian import SeparableGaussian
from tnkit.completion.groups import RowGroups
from tnkit.completion.halrtc import HaLRTC, TruncatedNuclear
from tnkit.completion.mixture import Blend
from tnkit.completion.nonnegative import NonnegativeCP
from tnkit.completion.observations import Observations
from tnkit.completion.patches import PatchGroups
from tnkit.completion.points import SmoothFunction, complete_points
from tnkit.completion.result import Completion
from tnkit.completion.riemannian import RiemannianCG
from tnkit.completion.robust import RobustALS
from tnkit.completion.robust_tubal import RobustTubal
from tnkit.completion.scaled_gd import ScaledGD
from tnkit.completion.side_information import SideInformation
from tnkit.completion.stochastic import StochasticGCP
from tnkit.completion.subgradient import SubGradient
from tnkit.completion.tctv import TCTV
from tnkit.completion.tmac import TMac
from tnkit.completion.tnn import TubalNuclear

__all__ = [
    "DAIN",
    "NOTHING_MISSING",
    "TCTV",
    "Biharmonic",
    "Blend",
    "Completion",
    "CompletionALS",
    "CompletionFit",
    "CompletionMethod",
    "CompletionProblem",
    "CoordinateCP",
    "FullyConnected",
    "FunBaT",
    "FunctionalNetwork",
    "HaLRTC",
    "NonnegativeCP",
    "Observations",
    "PatchGroups",
    "RiemannianCG",
    "RobustALS",
    "RobustTubal",
    "RowGroups",
    "ScaledGD",
    "SeparableGaussian",
    "SideInformation",
    "SmoothFunction",
    "StochasticGCP",
    "SubGradient",
    "TMac",
    "TruncatedNuclear",
    "TubalNuclear",
    "complete",
    "complete_points",
    "register",
]
