"""A file of weights, opened and recognised: whose it is, what its tensors are called here, which pixels it expects."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.weights import families
from model.weights.families import Family, Names, Statistics
from model.weights.files import FileTensor, WeightFile, WeightFileError, open_weights
from model.weights.header import read_description
from model.weights.refused import explain_refusal
from model.weights.stand_ins import printable
from model.weights.state import FoundState, find_state, strip_prefixes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """The weights in a file, of which nothing but names and shapes was read yet."""

    tensors: Mapping[str, FileTensor]
    """By their names, without what they all begin with."""
    family: Family | None
    """Whose names these are; None if they are the network's own, or nobody's that is known."""
    depth: int
    """Of the ResNet that they are of; 0 if they are of none."""
    statistics: Statistics | None
    """Of the input that they were trained on, if that is known."""
    arch: str = ""
    """Of the network in a file that this project wrote, else ""."""
    found: str = ""
    """Where they were in the file, in words."""
    notes: tuple[str, ...] = ()
    """What was left out of them, in words."""

    @property
    def shapes(self) -> Names:
        """Shapes by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def title(self) -> str:
        """Whose weights these are, in words."""
        if self.arch:
            return f"{self.arch}-{self.depth} of this program" if self.depth else f"{self.arch} of this program"
        if self.family is None:
            return "a network of its own"
        return f"{self.family.name}, depth {self.depth}" if self.depth else self.family.name

    def load(self) -> "dict[str, Tensor]":
        """Return the tensors by the names, and in the shapes, that they have here.

        Raises:
            WeightFileError: the file is damaged, or two of its tensors would have the same name.
        """
        from model.weights.volumes import to_ours  # torch, which nothing before needs

        if self.family is None:
            return {name: tensor.read() for name, tensor in self.tensors.items()}
        loaded: dict[str, Tensor] = {}
        for name, ours in self.family.rename(self.shapes).items():
            if ours in loaded:
                raise WeightFileError(f"it has {printable(ours)} twice, once as {printable(name)}")
            loaded[ours] = to_ours(ours, self.tensors[name].read())
        return loaded


def read_weights_file(path: Path, own: frozenset[str] = frozenset(), refuses: bool = True) -> Weights:
    """Open and recognise a file of weights.

    Args:
        own: the names of the network's own tensors, which count before those of any family.
        refuses: whether weights that look like those of a network that cannot be had here are refused.

    Raises:
        WeightFileError: no such file, none of weights, or of a network that cannot be had here.
    """
    if not path.is_file():
        raise WeightFileError("no such file; give imagenet or the path of a .pth or .safetensors file")
    try:
        file = open_weights(path)
        found = strip_prefixes(find_state(file.root), frozenset(name.partition(".")[0] for name in own))
        tensors = file.tensors(found.values)
    except OSError as error:
        raise WeightFileError(f"it cannot be read ({error.strerror or error})") from error
    arch, statistics = read_description(file.metadata)
    weights = Weights(tensors, None, 0, statistics, arch, _describe(found), found.notes)
    weights = replace(weights, depth=families.count_depth(weights.shapes))
    if own and weights.shapes.keys() <= own:
        family = next((family for family in families.TWO_DIMENSIONAL if family.matches(weights.shapes)), None)
        return replace(weights, family=family)
    return _recognised(weights, file, refuses)


def _recognised(weights: Weights, file: WeightFile, refuses: bool) -> Weights:
    text = _configuration(file.root)
    if refuses and (reason := explain_refusal(weights.shapes, text)):
        raise WeightFileError(f"it looks like {reason}")
    family = families.recognise(weights.shapes)
    known = weights.statistics or families.statistics_in(text)
    return replace(weights, family=family, statistics=known or (family.statistics if family else None))


def _describe(found: FoundState) -> str:
    parts = [f"in {printable(found.wrapper)!r}"] if found.wrapper else []
    parts += [f"without the prefix {printable(found.prefix)!r}"] if found.prefix else []
    return ", ".join(parts)


def _configuration(root: Any) -> str:
    """Return the text of the configuration that came with the weights: mmaction2's meta.cfg, SlowFast's cfg."""
    if not isinstance(root, Mapping):
        return ""
    places = [root, root.get("meta")]
    texts = [place.get(name) for place in places if isinstance(place, Mapping) for name in ("cfg", "config")]
    return next((text for text in texts if isinstance(text, str)), "")[:1_000_000]
