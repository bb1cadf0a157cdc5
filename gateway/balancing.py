"""Pure: in which order targets are asked that could all answer: by weight, by latency, by cost.

Never decides who may answer or who pays (`routing.py`): own keys stay before what is free, and that before credits.
Draws no number and measures nothing itself: those are arguments. Neighbours: `candidates.py`, `health.py` (latencies).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from gateway.routing import K, P, Target

T = TypeVar("T")

# How often a target is asked whose turn it is not, so that what is known of latencies stays true.
EXPLORED = 0.05
_RANKS: Mapping[str, int] = {"own_key": 0, "free": 1, "credits": 2}


def weighted_order(items: Sequence[T], weight: Callable[[T], int], *, random: Callable[[], float]) -> list[T]:
    """Return all items in an order drawn by weight: each place goes to one of the rest in proportion to its weight.

    `random` gives numbers from 0 up to 1. A weight below 1 counts as 1.
    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    if len(items) < 2:
        return list(items)
    # The time until each one rings, with its weight as the rate: the first to ring is drawn in proportion.
    drawn = [-math.log(1.0 - random()) / max(weight(item), 1) for item in items]
    return [items[index] for index in sorted(range(len(items)), key=drawn.__getitem__)]


def spread(targets: Sequence[Target[K, P]], *, random: Callable[[], float]) -> list[Target[K, P]]:
    """Return targets with the keys of each model in a weighted order; models, and who pays, keep their places."""
    if len(targets) < 2:
        return list(targets)
    groups: dict[tuple[str, str, str], list[Target[K, P]]] = {}
    for target in targets:
        groups.setdefault((target.paid_by, target.model.provider, target.model.id), []).append(target)
    ordered: list[Target[K, P]] = []
    for group in groups.values():
        ordered += weighted_order(group, _weight, random=random)
    return ordered


def by_latency(
    targets: Sequence[Target[K, P]], latency_s: Callable[[Target[K, P]], float | None], *, random: Callable[[], float]
) -> list[Target[K, P]]:
    """Return targets with the quickest first among those that one party pays for; of unknown latency last.

    One time in twenty the order stays as it comes, so that every target is measured now and then.
    """
    if len(targets) < 2 or random() < EXPLORED:
        return list(targets)
    known = [latency_s(target) for target in targets]
    return _sorted(targets, [math.inf if seconds is None else seconds for seconds in known])


def by_cost(targets: Sequence[Target[K, P]], cost: Callable[[P], int]) -> list[Target[K, P]]:
    """Return targets with the cheapest first among those that one party pays for; of unknown price last."""
    prices = [0 if target.paid_by == "free" else math.inf for target in targets]
    return _sorted(
        targets,
        [price if target.price is None else cost(target.price) for target, price in zip(targets, prices, strict=True)],
    )


def _sorted(targets: Sequence[Target[K, P]], figures: Sequence[float]) -> list[Target[K, P]]:
    order = sorted(range(len(targets)), key=lambda index: (_RANKS[targets[index].paid_by], figures[index]))
    return [targets[index] for index in order]


def _weight(target: Target[K, P]) -> int:
    return target.key.weight if target.key is not None else 1
