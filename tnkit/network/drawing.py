"""A network as text: a spanning tree of its nodes with the sizes of all bonds, then the bonds that close loops.

Example:
    >>> from tnkit.network import Topology
    >>> ring = Topology.parse("pia,ajb,bkp->ijk")
    >>> print(drawn(ring, {"i": 4, "j": 5, "k": 6, "a": 2, "b": 3, "p": 2}))
    i:4
    ├─2─ k:6
    └─2─ j:5
    loops: j:5 ─3─ k:6
"""

from __future__ import annotations

from collections.abc import Mapping

from tnkit.network.topology import Topology

__all__ = ["drawn"]


def drawn(topology: Topology, sizes: Mapping[str, int]) -> str:
    """The drawing.

    Args:
        topology: nodes are named by their open labels; those that have none are dots, numbered.
        sizes: of all labels. A label that is on more than two nodes is a node itself, `*` with its name.
    """
    names = [
        " ".join(f"{label}:{sizes[label]}" for label in own if label in topology.output) for own in topology.inputs
    ]
    inner = [k for k, name in enumerate(names) if not name]
    for number, k in enumerate(inner):
        names[k] = "·" if len(inner) == 1 else f"·{number}"
    bonds: list[tuple[int, int, int]] = []  # two nodes, a size
    for label in topology.internal:
        ends = topology.nodes_of(label)
        if len(ends) == 2:
            bonds.append((ends[0], ends[1], sizes[label]))
        elif len(ends) > 2:
            names.append(f"*{label}")
            bonds += [(len(names) - 1, node, sizes[label]) for node in ends]
    near: dict[int, list[tuple[int, int, int]]] = {k: [] for k in range(len(names))}  # (bond, other node, size)
    for number, (a, b, size) in enumerate(bonds):
        near[a].append((number, b, size))
        near[b].append((number, a, size))
    used: set[int] = set()
    seen: set[int] = set()
    lines: list[str] = []

    def visit(node: int, first: str, rest: str) -> None:
        seen.add(node)
        lines.append(first + names[node])
        found = []
        for number, other, size in near[node]:
            if other not in seen:
                seen.add(other)
                used.add(number)
                found.append((other, size))
        for place, (other, size) in enumerate(found):
            last = place == len(found) - 1
            mark = f"{'└' if last else '├'}─{size}─ "
            visit(other, rest + mark, rest + (" " if last else "│") + " " * (len(mark) - 1))

    for node in sorted(near, key=lambda k: -len(near[k])):
        if node not in seen:
            visit(node, "", "")
    loops = [f"{names[a]} ─{size}─ {names[b]}" for number, (a, b, size) in enumerate(bonds) if number not in used]
    return "\n".join([*lines, *(["loops: " + ", ".join(loops)] if loops else [])])
