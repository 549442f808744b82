"""Structure search: which network for the data."""

from tnkit.search.annealing import Annealing
from tnkit.search.ard import ARD
from tnkit.search.ask_tell import AskTell
from tnkit.search.auto import AutoSearch
from tnkit.search.complete import StructureSearch
from tnkit.search.drive import ObjectiveResult, run_objective
from tnkit.search.evbmf import BayesRanks
from tnkit.search.from_cuts import CutSearch
from tnkit.search.from_ranks import MatchedSearch
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.genetic import TNGA
from tnkit.search.graph import Graph
from tnkit.search.greedy import GreedyTN
from tnkit.search.ladder import RankLadder
from tnkit.search.local import TNLS, TnALE
from tnkit.search.loops import LoopSearch
from tnkit.search.loss import LossObjective
from tnkit.search.objective import DenseObjective, Objective, Trial
from tnkit.search.observed import ObservedObjective
from tnkit.search.packing import PackingSearch, packed_ranks
from tnkit.search.portfolio import Portfolio, unfoldings
from tnkit.search.proposer import STRATEGIES, Proposal, Proposer, Setting
from tnkit.search.random_graphs import RandomSearch
from tnkit.search.reshapes import reshapings, run_reshaped
from tnkit.search.runner import Limits, run_search
from tnkit.search.several import Several
from tnkit.search.svdinstn import SVDinsTN
from tnkit.search.synthesis import Synthesis
from tnkit.search.trees import TreeSearch
from tnkit.search.tucker_front import TuckerFront, tucker_front

__all__ = [
    "ARD",
    "STRATEGIES",
    "TNGA",
    "TNLS",
    "Annealing",
    "AskTell",
    "AutoSearch",
    "BayesRanks",
    "Candidate",
    "CutSearch",
    "DenseObjective",
    "Graph",
    "GreedyTN",
    "Limits",
    "LoopSearch",
    "LossObjective",
    "MatchedSearch",
    "Objective",
    "ObjectiveResult",
    "ObservedObjective",
    "PackingSearch",
    "Portfolio",
    "Proposal",
    "Proposer",
    "RandomSearch",
    "RankLadder",
    "SVDinsTN",
    "SearchResult",
    "Setting",
    "Several",
    "StructureSearch",
    "Synthesis",
    "TnALE",
    "TreeSearch",
    "Trial",
    "TuckerFront",
    "packed_ranks",
    "pareto_front",
    "reshapings",
    "run_objective",
    "run_reshaped",
    "run_search",
    "tucker_front",
    "unfoldings",
]
