"""Samples that a run leaves out once they are found bad: from then on, and nothing of what came before moves."""

from collections.abc import Collection

import numpy as np

from pipeline.class_sampling import sample_ids_of


class Exclusions:
    """Sample ids, each with the epoch and the step from which on it is left out."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, int]] = {}

    @property
    def sample_ids(self) -> tuple[int, ...]:
        """All of them, sorted."""
        return tuple(sorted(self._places))

    def add(self, sample_ids: Collection[int], epoch: int, step: int) -> None:
        """Leave samples out from a step of an epoch on, whose earlier steps were handed out."""
        self._places |= dict.fromkeys(sample_ids, (epoch, step))

    def apply(self, order: np.ndarray, epoch: int, batch_size: int) -> np.ndarray:
        """Return the samples, or draws of samples, of an epoch (N,) without those that are left out.

        >>> found = Exclusions()
        >>> found.add([7], epoch=1, step=2)
        >>> [found.apply(np.array([7, 1, 2, 3, 7, 4]), epoch, batch_size=2).tolist() for epoch in (0, 1, 2)]
        [[7, 1, 2, 3, 7, 4], [7, 1, 2, 3, 4], [1, 2, 3, 4]]
        """
        for found, step in sorted({*self._places.values()}):
            if found <= epoch:
                bad = [sample_id for sample_id, place in self._places.items() if place == (found, step)]
                kept = ~np.isin(sample_ids_of(order), bad)
                kept[: step * batch_size if found == epoch else 0] = True
                order = order[kept]
        return order

    def state_dict(self) -> dict:
        """Return them as plain values."""
        return {"excluded": [*self.sample_ids], "excluded_from": [list(self._places[each]) for each in self.sample_ids]}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` gave, or what earlier versions wrote, which knew no places."""
        excluded = state["excluded"] if "excluded" in state else state["left_out"]  # as versions before 0.2 named it
        places = state.get("excluded_from") or [(0, 0)] * len(excluded)
        self._places = {sample_id: (epoch, step) for sample_id, (epoch, step) in zip(excluded, places, strict=True)}
