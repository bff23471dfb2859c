"""What an evaluation confuses: an order of the classes in which confused ones are neighbours, and the worst pairs."""

from dataclasses import dataclass

import numpy as np

MOST_ORDERED = 3000
"""With more classes than this the order by confusion, whose cost grows with their square, is not computed."""


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other."""

    first: int
    """The one more of whose samples are taken for the other."""
    second: int
    first_as_second: int
    second_as_first: int


def confused_pairs(confusion: np.ndarray, count: int) -> list[ConfusedPair]:
    """Return up to `count` pairs with the most samples taken for each other, in both directions together.

    >>> confused_pairs(np.array([[5, 2, 0], [4, 1, 0], [0, 1, 3]]), 2)
    [ConfusedPair(first=1, second=0, first_as_second=4, second_as_first=2), \
ConfusedPair(first=2, second=1, first_as_second=1, second_as_first=0)]
    """
    both = np.triu(confusion + confusion.T, 1)
    rows, columns = np.nonzero(both)
    pairs = []
    for place in np.argsort(-both[rows, columns], kind="stable")[:count]:
        a, b = int(rows[place]), int(columns[place])
        if confusion[b, a] > confusion[a, b]:
            a, b = b, a
        pairs.append(ConfusedPair(a, b, int(confusion[a, b]), int(confusion[b, a])))
    return pairs


def order_by_confusion(confusion: np.ndarray) -> np.ndarray:
    """Return the classes (C,) in an order in which those that are taken for each other are neighbours.

    Average-linkage clustering of the symmetric rate of confusion, by chains of nearest neighbours (Benzécri 1982), in
    C² steps of memory and time; when two clusters join, each is turned so that its more confused end is inside.

    >>> order_by_confusion(np.array([[9, 0, 1, 0], [0, 9, 0, 1], [1, 0, 9, 0], [0, 3, 1, 6]])).tolist()
    [0, 2, 3, 1]
    """
    num_classes = len(confusion)
    if num_classes > MOST_ORDERED or num_classes < 3:
        return np.arange(num_classes)
    rates = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    near = rates + rates.T
    np.fill_diagonal(near, 0)
    linkage, sizes = near.copy(), np.ones(num_classes)
    np.fill_diagonal(linkage, -1)  # none is its own neighbour
    orders = {number: [number] for number in range(num_classes)}
    chain: list[int] = []
    while len(orders) > 1:
        if not chain:
            chain = [next(iter(orders))]
        last = chain[-1]
        best = int(linkage[last].argmax())
        if len(chain) > 1 and linkage[last, chain[-2]] >= linkage[last, best]:
            best = chain[-2]
        if len(chain) == 1 or best != chain[-2]:
            chain.append(best)
            continue
        del chain[-2:]
        orders[best] = _join(orders[best], orders.pop(last), near)
        total = sizes[best] + sizes[last]
        mean = (sizes[best] * linkage[best] + sizes[last] * linkage[last]) / total
        linkage[best], linkage[:, best], sizes[best] = mean, mean, total
        linkage[best, best] = -1
        linkage[last], linkage[:, last] = -1, -1
    [order] = orders.values()
    return np.array(order)


def _join(one: list[int], other: list[int], near: np.ndarray) -> list[int]:
    """Return both sequences in a row, each turned so that the ends that meet are confused the most."""
    ways = [(near[a[-1], b[0]], a, b) for a in (one, one[::-1]) for b in (other, other[::-1])]
    _, first, second = max(ways, key=lambda way: way[0])
    return first + second
