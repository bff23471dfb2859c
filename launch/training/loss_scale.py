"""The loss scale of fp16 training under ZeRO 1 and 2.

DeepSpeed hands torch's GradScaler there to an optimizer that takes no notice of it: gradients are clipped while they
are still scaled, each rank looks for overflows in its own partition alone, each parameter group counts as a step, and
the scale is not saved. The same optimizer does all of that right with a loss scaler that is not DeepSpeed's, such as
this one.
"""

import torch

GROWTH_INTERVAL = 2000  # as torch.amp.GradScaler
INITIAL_SCALE = 2.0**16


class LossScale:
    """A factor on the loss: halved by a step whose gradients overflow, doubled after 2000 steps without one.

    What DeepSpeed's ZeRO optimizer calls of it: `scale_loss` before the backward pass, then once a step, on all ranks
    alike, `update_scale`, and after that `cur_scale` to divide the gradients by.
    """

    dynamic = True

    def __init__(self):
        self.cur_scale = INITIAL_SCALE
        self._next_scale = INITIAL_SCALE
        self._good_steps = 0

    @property
    def loss_scale(self) -> float:
        return self.cur_scale

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the scaled loss. A scale that has grown counts from here on: the gradients before had the old one."""
        self.cur_scale = self._next_scale
        return loss * self.cur_scale

    def update_scale(self, overflow: bool) -> None:
        """Take note of a step: whether its gradients overflowed, and so were thrown away."""
        if overflow:
            self.cur_scale = self._next_scale = max(self.cur_scale / 2, 1.0)
            self._good_steps = 0
            return
        self._good_steps += 1
        if self._good_steps == GROWTH_INTERVAL:
            self._next_scale = self.cur_scale * 2
            self._good_steps = 0

    def state_dict(self) -> dict[str, float | int]:
        """Return what a resumed run continues from."""
        return {"scale": self._next_scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Continue from what `state_dict` returned."""
        self.cur_scale = self._next_scale = state["scale"]
        self._good_steps = state["good_steps"]
