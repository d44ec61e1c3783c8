"""Owns the arithmetic of graphs given as lists of successors: order, longest paths, cycles."""

from __future__ import annotations

from collections.abc import Sequence

Successors = Sequence[Sequence[int]]


def order(successors: Successors) -> list[int]:
    """Sort topologically; nodes on a cycle, or behind one, are left out."""
    counts = [0] * len(successors)
    for targets in successors:
        for target in targets:
            counts[target] += 1
    sorted_ = [node for node, count in enumerate(counts) if not count]
    for node in sorted_:  # grows while it is walked
        for target in successors[node]:
            counts[target] -= 1
            if not counts[target]:
                sorted_.append(target)
    return sorted_


def ranks(successors: Successors, weights: Sequence[int]) -> list[int]:
    """Give the weight of the heaviest path from each node to an end, itself included."""
    found = list(weights)
    for node in reversed(order(successors)):
        below = max((found[target] for target in successors[node]), default=0)
        found[node] = weights[node] + below
    return found


def cycles(successors: Successors, *, at_most: int = 10) -> list[list[int]]:
    """Find cycles that share no node, each in the order of its arrows."""
    found: list[list[int]] = []
    graph = [list(targets) for targets in successors]
    while len(found) < at_most:
        cycle = _cycle(graph)
        if not cycle:
            break
        found.append(cycle)
        cut = set(cycle)
        graph = [
            [] if node in cut else [t for t in targets if t not in cut]
            for node, targets in enumerate(graph)
        ]
    return found


def _cycle(successors: Successors) -> list[int]:
    sorted_ = set(order(successors))
    before: dict[int, int] = {}
    for node, targets in enumerate(successors):
        if node not in sorted_:
            before.update((t, node) for t in targets if t not in sorted_)
    if not before:
        return []
    # Every node that is left has a predecessor that is left, so walking back must close a circle.
    walk: dict[int, None] = {}
    node = next(iter(before))
    while node not in walk:
        walk[node] = None
        node = before[node]
    path = list(walk)
    circle = path[path.index(node) :]
    circle.reverse()
    smallest = circle.index(min(circle))
    return circle[smallest:] + circle[:smallest]
