"""Optimizers next to torch's: momentum chosen by the loss, and gradients scaled by a power of their second moment.

They are `torch.optim.Optimizer`s. Everything that they resume from is in their state dict, and a step over some of the
parameter groups (DeepSpeed's ZeRO takes one for each group) is the same as that part of a step over all of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial

# The operations over lists of tensors that torch's own optimizers are made of; torch declares them private.
# pyright: reportPrivateImportUsage=false
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from launch.training.optimizer_config import OptimizerConfig
from model.freeze import check_stages, parameter_depths, stage_of


class _GroupwiseOptimizer(Optimizer):
    """An optimizer whose step is a step over each parameter group by itself."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one step; return the closure's value if there is one."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            grads = [parameter.grad for parameter in params]
            if params and group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            if params:
                self._step_group(group, params, grads)
        return value

    def _step_group(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        """Take the step of a group's parameters that have a gradient, to which weight decay was added."""
        raise NotImplementedError


class Lcam(_GroupwiseOptimizer):
    """SGD whose momentum follows the loss: after each step

        m <- momentum_low if loss < mean of the losses of this epoch so far, this one included, else momentum_high

    and buffers are left as they are: b <- m b + g, parameter <- parameter - lr b. With both momenta equal it is
    `torch.optim.SGD`. The loss of a step is passed before it:

        loss.backward()
        optimizer.note_loss(loss.detach(), epoch, step)
        optimizer.step()

    Nothing waits for the device. The first group's "losses", (4,) float64, holds of the epoch the sum of the finished
    steps' losses and their number, then of the step under way the sum and number of the losses noted for it.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum_low: float = 0.9,
        momentum_high: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        momenta = {"momentum_low": momentum_low, "momentum_high": momentum_high, "momentum": momentum_high}
        super().__init__(params, {"lr": lr, **momenta, "nesterov": nesterov, "weight_decay": weight_decay})

    def note_loss(self, loss: Tensor, epoch: int, step: int) -> None:
        """Take the loss, a scalar, of a forward pass for step `step` of epoch `epoch`; of several for one step their
        mean counts. Where ranks share a batch, it is to be the mean over them."""
        first = self.param_groups[0]
        losses = first.get("losses", torch.zeros(4, dtype=torch.float64)).to(loss.device, copy=True)
        if first.get("noted") != (epoch, step):
            if "noted" in first:
                losses = self._finish_step(losses)
                if first["noted"][0] != epoch:
                    losses.zero_()
            first["noted"] = (epoch, step)
        losses[2] += loss
        losses[3] += 1
        first["losses"] = losses

    def _finish_step(self, losses: Tensor) -> Tensor:
        """Choose the momentum of the next step; return "losses" with this one counted and nothing under way."""
        loss = losses[2] / losses[3]
        finished = torch.stack([losses[0] + loss, losses[1] + 1])
        below = loss < finished[0] / finished[1]
        for group in self.param_groups:
            low, high = (losses.new_full((), group[name]) for name in ("momentum_low", "momentum_high"))
            group["momentum"] = torch.where(below, low, high)
        return torch.cat([finished, torch.zeros_like(finished)])

    def _step_group(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        for parameter in params:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in params]
        momentum = group["momentum"]
        if isinstance(momentum, Tensor):
            momentum = momentum.to(params[0])
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        updates = buffers
        if group["nesterov"]:
            updates = torch._foreach_mul(buffers, momentum)
            torch._foreach_add_(updates, grads)
        torch._foreach_add_(params, updates, alpha=-group["lr"])


class SecondMomentExponent(_GroupwiseOptimizer):
    """parameter <- parameter - lr m' / (v'^exponent + eps)

    where m' and v' are the bias-corrected moving averages of the gradient and of its square, as in Adam. With exponent
    1/2 it is Adam; with 0 the step is m' / (1 + eps), that of SGD with momentum betas[0], dampening betas[0] and the
    learning rate lr / (1 - betas[0]^t) in step t. Weight decay is added to the gradient, as in both.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        exponent: float = 0.25,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        defaults = {"lr": lr, "betas": betas, "exponent": exponent, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def _step_group(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        states = [self._state_of(parameter) for parameter in params]
        steps = [int(state["step"].add_(1)) for state in states]  # on the CPU, as torch's own
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        divisors = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_pow_(divisors, group["exponent"])
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_addcdiv_(params, means, divisors, [-group["lr"] / (1 - beta1**step) for step in steps])

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def build_optimizer(config: OptimizerConfig, groups: list[dict], learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer that `config` names."""
    second = config.second_moment
    makers = {
        "sgd": partial(torch.optim.SGD, momentum=config.momentum, nesterov=config.nesterov),
        "adamw": partial(torch.optim.AdamW, betas=config.adamw.betas, eps=config.adamw.epsilon, fused=True),
        "lcam": partial(Lcam, nesterov=config.nesterov, **asdict(config.lcam)),
        "second_moment": partial(
            SecondMomentExponent,
            betas=(config.momentum, second.decay),
            exponent=second.exponent,
            eps=second.epsilon,
        ),
    }
    return makers[config.name](groups, lr=learning_rate)


# Modules whose weight is no map from features to features: every kind of norm, and tables.
_NO_MAPS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding)


def parameter_groups(net: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Return what is trained: weights of convolutions and linear maps; their biases, with their own learning rate and
    without decay; the rest, which is norms, embeddings, positions and class tokens, without decay. Each of the three
    is divided further where `learning_rate_scales` differ."""
    factors = {"weights": 1.0, "biases": config.bias_learning_rate_factor, "others": 1.0}
    groups: dict[str, dict[float, list[nn.Parameter]]] = {kind: {} for kind in factors}
    scales = learning_rate_scales(net, config)
    for path, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            kind = _kind(module, name)
            scale = scales.get(f"{path}.{name}".removeprefix("."), 1.0)
            groups[kind].setdefault(scale, []).append(parameter)
    return [
        {
            "name": kind if scale == 1 else f"{kind} x {scale:.3g}",
            "params": params,
            "weight_decay": config.weight_decay if kind == "weights" else 0.0,
            "learning_rate_factor": factor * scale,
        }
        for kind, factor in factors.items()
        for scale, params in sorted(groups[kind].items(), reverse=True)
    ]


def _kind(module: nn.Module, name: str) -> str:
    """Return the group of a module's parameter by the ending of its name, as attention has an in_proj_weight; of an
    LSTM's, such as weight_hh_l0, by the beginning."""
    if isinstance(module, _NO_MAPS):
        return "others"
    has = name.startswith if isinstance(module, nn.RNNBase) else name.endswith
    return "weights" if has("weight") else "biases" if has("bias") else "others"


def learning_rate_scales(net: nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """Return by name the factor on the learning rate of parameters that have another than 1: those of the head by
    `config.head_learning_rate_factor`, those n blocks before it by `config.layer_decay` to the power of n.

    Raises:
        ValueError: the network has no residual blocks, and a factor is asked for.
    """
    for option in ("head_learning_rate_factor", "layer_decay"):
        if getattr(config, option) != 1:
            check_stages(net, f"optimizer.{option}={getattr(config, option)}")
    depths = parameter_depths([name for name, _ in net.named_parameters()])
    top, fresh = max(depths.values(), default=0), getattr(net, "fresh_names", ())
    scales = {name: 1.0 if name in fresh else config.layer_decay ** (top - depth) for name, depth in depths.items()}
    scales |= {name: config.head_learning_rate_factor for name in scales if stage_of(name) is None}
    return {name: scale for name, scale in scales.items() if scale != 1}
