"""Structure search: which network for the data."""

from tnkit.search.front import Candidate, SearchResult, pareto_front
from tnkit.search.portfolio import Portfolio, unfoldings

__all__ = ["Candidate", "Portfolio", "SearchResult", "pareto_front", "unfoldings"]
