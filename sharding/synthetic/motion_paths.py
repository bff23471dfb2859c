"""The kinds of motion: what each does over time."""

import math
from collections.abc import Callable

import numpy as np

# A motion maps the time (T,) from 0 to 1 to a path (4, T): right, down, growth, clockwise turn, in units of the amounts
# drawn for the video. A profile maps the time to how much of the path is done.
Profile = Callable[[np.ndarray], np.ndarray]


def _along(profile: Profile, right: float = 0, down: float = 0, grow: float = 0, turn: float = 0) -> Profile:
    return lambda time: np.outer([right, down, grow, turn], profile(time))


def _steady(time: np.ndarray) -> np.ndarray:
    return time


def _there_and_back(time: np.ndarray) -> np.ndarray:
    return 1 - np.abs(2 * time - 1)


def _speeding_up(time: np.ndarray) -> np.ndarray:
    return time**2


def _slowing_down(time: np.ndarray) -> np.ndarray:
    return 1 - (1 - time) ** 2


def _zigzag(right: float) -> Profile:
    def path(time: np.ndarray) -> np.ndarray:
        sideways = 0.4 * np.abs((4 * time) % 2 - 1)
        return np.stack([right * time, sideways, 0 * time, 0 * time])

    return path


def _circling(sense: float) -> Profile:
    def path(time: np.ndarray) -> np.ndarray:
        angle = 2 * math.pi * time
        # From the top of the circle, so that mirroring and playing backwards give the other sense.
        return np.stack([0.4 * sense * np.sin(angle), -0.4 * np.cos(angle), 0 * time, 0 * time])

    return path


_DIAGONAL = math.sqrt(0.5)

MOTIONS: dict[str, Profile] = {
    "left": _along(_steady, right=-1),
    "right": _along(_steady, right=1),
    "up": _along(_steady, down=-1),
    "down": _along(_steady, down=1),
    "grow": _along(_steady, grow=1),
    "shrink": _along(_steady, grow=-1),
    "turn_clockwise": _along(_steady, turn=1),
    "turn_anticlockwise": _along(_steady, turn=-1),
    "up_left": _along(_steady, right=-_DIAGONAL, down=-_DIAGONAL),
    "down_right": _along(_steady, right=_DIAGONAL, down=_DIAGONAL),
    "up_right": _along(_steady, right=_DIAGONAL, down=-_DIAGONAL),
    "down_left": _along(_steady, right=-_DIAGONAL, down=_DIAGONAL),
    "turn_clockwise_growing": _along(_steady, grow=1, turn=1),
    "turn_anticlockwise_shrinking": _along(_steady, grow=-1, turn=-1),
    "turn_anticlockwise_growing": _along(_steady, grow=1, turn=-1),
    "turn_clockwise_shrinking": _along(_steady, grow=-1, turn=1),
    "left_then_right": _along(_there_and_back, right=-1),
    "right_then_left": _along(_there_and_back, right=1),
    "up_then_down": _along(_there_and_back, down=-1),
    "down_then_up": _along(_there_and_back, down=1),
    "grow_then_shrink": _along(_there_and_back, grow=1),
    "shrink_then_grow": _along(_there_and_back, grow=-1),
    "turn_clockwise_and_back": _along(_there_and_back, turn=1),
    "turn_anticlockwise_and_back": _along(_there_and_back, turn=-1),
    "left_speeding_up": _along(_speeding_up, right=-1),
    "right_slowing_down": _along(_slowing_down, right=1),
    "right_speeding_up": _along(_speeding_up, right=1),
    "left_slowing_down": _along(_slowing_down, right=-1),
    "zigzag_left": _zigzag(-1),
    "zigzag_right": _zigzag(1),
    "circle_clockwise": _circling(1),
    "circle_anticlockwise": _circling(-1),
}
