"""The words of class names as tokens: split here, numbered here, embedded from scratch or from vectors in a file."""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

PADDING = 0


def split_words(text: str) -> list[str]:
    """Return the runs of letters or of digits, in lower case.

    >>> split_words("(BB) leap forward, 1.5 turns")
    ['bb', 'leap', 'forward', '1', '5', 'turns']
    """
    return re.findall(r"[^\W\d_]+|\d+", text.lower())


class LabelText(nn.Module):
    """The words of each class name as tokens; every word and every place in a name is learned."""

    word_ids: Tensor

    def __init__(self, classes: tuple[str, ...], text_width: int, width: int) -> None:
        super().__init__()
        names = [split_words(name) for name in classes]
        self.vocabulary = tuple(sorted({word for name in names for word in name}))
        numbers = {word: number for number, word in enumerate(self.vocabulary, PADDING + 1)}
        word_ids = torch.full((len(names), max(1, *map(len, names), 0)), PADDING)
        for row, name in zip(word_ids, names):
            row[: len(name)] = torch.tensor([numbers[word] for word in name], dtype=torch.int64)
        self.register_buffer("word_ids", word_ids, persistent=False)  # follows from the classes
        self.words = nn.Embedding(len(numbers) + 1, text_width, padding_idx=PADDING)
        self.project = nn.Linear(text_width, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, word_ids.shape[1], width))

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.word_ids)

    def forward(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, L, width) of label (B,), and which of them are for no word, (B, L) bool."""
        ids = self.word_ids[label]
        return self.project(self.words(ids)) + self.positions, ids == PADDING

    @torch.no_grad()
    def load_vectors(self, path: Path) -> None:
        """Take the vectors of its words from lines `word number ... number`; words without one stay as they are.

        Raises:
            ValueError: no such file, a vector of another width, or none of the words in it.
        """
        where = f"model.encoder.word_vectors={str(path)!r}"
        numbers = {word: number for number, word in enumerate(self.vocabulary, PADDING + 1)}
        width, found = self.words.embedding_dim, set()
        try:
            with path.open(encoding="utf-8") as lines:
                for line_number, line in enumerate(lines, 1):
                    word, _, values = line.rstrip().partition(" ")
                    if word not in numbers:
                        continue
                    vector = [float(value) for value in values.split()]
                    if len(vector) != width:
                        raise ValueError(f"line {line_number}: {len(vector)} numbers, but text_width={width}")
                    self.words.weight[numbers[word]] = torch.tensor(vector)
                    found.add(word)
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: {error}; give a file with a word and its numbers on each line") from error
        if not found:
            some = ", ".join(self.vocabulary[:3])
            raise ValueError(f"{where}: has none of the {len(numbers)} words of the labels ({some}, ...)")
        logger.info("%s: vectors of %d of %d words", path, len(found), len(numbers))
