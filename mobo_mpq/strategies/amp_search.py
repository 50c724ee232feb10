"""How far along a list of falling scores a target is kept: brute force, bisection and interpolation.

Each search is a generator: it yields the index whose score it wants to know, is sent the score, and returns the last
index whose score is at least the target, 0 where there is none. So a search can wait for results that others compute,
and is taken up again by sending it what is known already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping

Search = Generator[int, float, int]


def brute_force(points: int, target: float) -> Search:
    """One after the other, until the target is missed."""
    for index in range(points):
        if (yield index) < target:
            return max(index - 1, 0)
    return points - 1


def bisection(points: int, target: float) -> Search:
    """Halve what is left: about ``log2(points)`` scores."""
    low, high = 0, points
    while low < high:
        middle = (low + high) // 2
        if (yield middle) >= target:
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)


def interpolation(points: int, target: float) -> Search:
    """Where a straight line between the ends of what is left meets the target."""
    low, high = 0, points - 1
    at_low = yield low
    if at_low < target or low == high:
        return low
    at_high = yield high
    if at_high >= target:
        return high
    while high - low > 1:
        share = (target - at_low) / (at_high - at_low) if math.isfinite(at_high) else 0.5
        middle = min(max(int(low + (high - low) * share), low + 1), high - 1)
        score = yield middle
        if score >= target:
            low, at_low = middle, score
        else:
            high, at_high = middle, score
    return low


SEARCHES: Mapping[str, Callable[[int, float], Search]] = {
    "binary": bisection,
    "interpolation": interpolation,
    "brute": brute_force,
}
"""By the name of the option."""


def phase_2_search(name: str, points: int, target: float) -> Search:
    """The early exits, then a search: the highest bits may miss the target already, and the lowest may keep it."""
    if (yield 0) < target:
        return 0
    if (yield points - 1) >= target:
        return points - 1
    return (yield from SEARCHES[name](points, target))


def follow(search: Search, known: Mapping[int, float]) -> tuple[int | None, int | None]:
    """Send a search the scores that are known.

    Returns:
        The index whose score it wants next, or ``None`` and the index that it has found.
    """
    try:
        wanted = next(search)
        while wanted in known:
            wanted = search.send(known[wanted])
    except StopIteration as stop:
        return None, int(stop.value)
    return wanted, None
