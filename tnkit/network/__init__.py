"""Networks of tensors: the graph (Topology), the order of contraction (ContractionPlan), and what is built on them."""

from tnkit.network.algebra import block_sum, block_topology, hadamard, kron_nodes
from tnkit.network.constants import DFT, Constant, Part, select
from tnkit.network.drawing import drawn
from tnkit.network.environments import environment, environment_topology, gram_topology
from tnkit.network.plan import ContractionPlan, Step, contract, plan
from tnkit.network.topology import Topology

__all__ = [
    "DFT",
    "Constant",
    "ContractionPlan",
    "Part",
    "Step",
    "Topology",
    "block_sum",
    "block_topology",
    "contract",
    "drawn",
    "environment",
    "environment_topology",
    "gram_topology",
    "hadamard",
    "kron_nodes",
    "plan",
    "select",
]
