"""The raw `deepspeed:` section: what it may not say because another section does, and keys that nobody reads."""

import difflib
from collections.abc import Mapping

from sharding.errors import UserError

_PRECISION = "train.precision"
_BATCHES = "train.batch_size and train.micro_batch_size"
_NO_OFFLOAD = "train.zero_stage=1 or 2; ZeRO 3 and offloading are not supported"
_CHECKPOINTS = "train.save_every_steps and train.keep_checkpoints"

SAID_ELSEWHERE = {
    "optimizer": "the section optimizer",
    "scheduler": "the section schedule",
    "gradient_clipping": "optimizer.clip_norm",
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "amp", "torch_autocast"), _PRECISION),
    **dict.fromkeys(
        (
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "managed_gradient_accumulation",
            "elasticity",
        ),
        _BATCHES,
    ),
    **dict.fromkeys(("checkpoint", "datastates_ckpt"), _CHECKPOINTS),
    "zero_optimization.stage": "train.zero_stage",
    # DeepSpeed would then look no longer for overflow in fp16.
    "zero_optimization.compute_grad_norm": "optimizer.clip_norm, 0 for none",
    **dict.fromkeys(
        (f"zero_optimization.{name}" for name in ("offload_optimizer", "offload_param", "cpu_offload", "zenflow")),
        _NO_OFFLOAD,
    ),
}
"""Dotted keys, and where to say the same."""

_ZERO_3 = ("stage3_", "zero_hpz_", "zero_quantized_weights", "mics_", "param_persistence", "model_persistence")


def check_said_elsewhere(raw: Mapping, derived: Mapping, path: str = "") -> None:
    """Check that `raw` says nothing that other sections say, unless it says what was `derived` from them.

    Raises:
        UserError: it does; the message names the place to say it.
    """
    for key, value in raw.items():
        name = f"{path}{key}"
        if key in derived and derived[key] == value:
            continue
        place = SAID_ELSEWHERE.get(name)
        if name.startswith("zero_optimization.") and key.startswith(_ZERO_3):
            place = _NO_OFFLOAD
        if place is not None:
            said = f", which says {derived[key]!r}" if key in derived else ""
            raise UserError(f"deepspeed.{name}={value!r}: not to be given here; use {place}{said}")
        if isinstance(derived.get(key), Mapping) and not isinstance(value, Mapping):
            raise UserError(f"deepspeed.{name}={value!r}: it is a section; give keys and values")
        if isinstance(value, Mapping):
            check_said_elsewhere(value, derived.get(key) or {}, f"{name}.")


class ConsultedDict(dict):
    """A dictionary that takes note of the keys that are asked for, and so shows which ones its reader knows."""

    def __init__(self, values: Mapping, path: str = "deepspeed"):
        super().__init__(
            {k: ConsultedDict(v, f"{path}.{k}") if isinstance(v, Mapping) else v for k, v in values.items()}
        )
        self.path, self.consulted = path, set()

    def get(self, key, default=None):
        self.consulted.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.consulted.add(key)
        return super().__getitem__(key)

    def __contains__(self, key) -> bool:
        self.consulted.add(key)
        return super().__contains__(key)

    def __iter__(self):
        self._take_all()
        return super().__iter__()

    def keys(self):
        self._take_all()
        return super().keys()

    def _take_all(self) -> None:
        """Take note that somebody takes a section with all keys, as in f(**section), and so checks them himself."""
        if "." in self.path:  # of all sections together there is no such reader
            self.consulted.update(super().keys())

    def __copy__(self) -> "ConsultedDict":
        return self

    def check_all_consulted(self) -> None:
        """Check that the reader has asked for every key.

        Raises:
            UserError: it did not ask for one; the message names the most similar key that it knows.
        """
        for key, value in super().items():
            if self.consulted and key not in self.consulted:  # pydantic's own readers leave no trace, and check
                raise unknown_key(self.path, key, self.consulted)
            if isinstance(value, ConsultedDict):
                value.check_all_consulted()

    def find(self, key: str) -> "ConsultedDict":
        """Return the section in which `key` is given; this one if there is none."""
        sections = [value for value in super().values() if isinstance(value, ConsultedDict)]
        found = (section.find(key) for section in sections)
        return self if super().__contains__(key) else next((one for one in found if dict.__contains__(one, key)), self)


def unknown_key(path: str, key: str, known: set[str]) -> UserError:
    """Return the error for a key that DeepSpeed does not know."""
    nearest = difflib.get_close_matches(str(key), sorted(map(str, known)), n=1)
    hint = f"did you mean {path}.{nearest[0]}?" if nearest else "see https://www.deepspeed.ai/docs/config-json"
    return UserError(f"{path}.{key}: DeepSpeed knows no such option; {hint}")
