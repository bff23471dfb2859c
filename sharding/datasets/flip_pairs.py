"""Which classes change places when a video is mirrored, by their names."""

import re
from collections.abc import Sequence

_SIDES = re.compile(r"(?<![a-z])(left|right|clockwise|anticlockwise|counterclockwise)(?![a-z])")


def mirrored_pairs(classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return pairs (a, b), a < b, of labels whose names differ only by left and right (or the clock's sense) swapped.

    >>> mirrored_pairs(["Pulling something from left to right", "Poking it", "Pulling something from right to left"])
    ((0, 2),)
    """
    place = {name.lower(): label for label, name in enumerate(classes)}
    pairs = set()
    for against_the_clock in ("anticlockwise", "counterclockwise"):
        opposite = {"left": "right", "right": "left", "clockwise": against_the_clock}
        for name, label in place.items():
            mirrored = _SIDES.sub(lambda word, opposite=opposite: opposite.get(word[0], "clockwise"), name)
            other = place.get(mirrored, label)
            if other != label:
                pairs.add((min(label, other), max(label, other)))
    return tuple(sorted(pairs))
