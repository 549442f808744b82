"""Structure search: which network for the data."""

from tnkit.search.from_cuts import CutSearch
from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.graph import Graph
from tnkit.search.greedy import GreedyTN
from tnkit.search.local import TNLS, TnALE
from tnkit.search.packing import PackingSearch, packed_ranks
from tnkit.search.portfolio import Portfolio, unfoldings
from tnkit.search.proposer import STRATEGIES, Proposal, Proposer, Setting
from tnkit.search.random_graphs import RandomSearch
from tnkit.search.reshapes import reshapings, run_reshaped
from tnkit.search.runner import Limits, run_search
from tnkit.search.several import Several
from tnkit.search.trees import TreeSearch
from tnkit.search.tucker_front import TuckerFront, tucker_front

__all__ = [
    "STRATEGIES",
    "TNLS",
    "Candidate",
    "CutSearch",
    "Graph",
    "GreedyTN",
    "Limits",
    "PackingSearch",
    "Portfolio",
    "Proposal",
    "Proposer",
    "RandomSearch",
    "SearchResult",
    "Setting",
    "Several",
    "TnALE",
    "TreeSearch",
    "TuckerFront",
    "packed_ranks",
    "pareto_front",
    "reshapings",
    "run_reshaped",
    "run_search",
    "tucker_front",
    "unfoldings",
]
