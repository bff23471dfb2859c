"""The files in which benchmarks take predictions for their test splits, from the scores of every sample.

kinetics       JSON; activity-net.org/challenges/2018/tasks/guest_kinetics.html, "Submission Format"
something-v1   CSV, `id;class`; test_models.py of github.com/mit-han-lab/temporal-shift-module, as is
jester         the same
something-v2   CSV, `id;label id` five times; the same program
moments        text, the file's name and five classes; moments.csail.mit.edu/challenge.html
epic-kitchens  test.json in a ZIP; github.com/epic-kitchens/C1-Action-Recognition, utils/challenge.py
csv            the key, five classes and their probabilities: for any other use
"""

import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from sharding.errors import UserError
from sharding.files import replacing, write_atomically

TOP = 5
NUM_ACTIONS = 100
"""Actions of the highest scores that an EPIC-Kitchens submission has for each segment."""
_CLIP = re.compile(r"(.+)_[0-9]{6}_[0-9]{6}")
_LOWEST = 1e-9  # no probability is below it, so that all have logarithms


@dataclass(frozen=True)
class SplitScores:
    """The probabilities of all samples of a split, in its order."""

    keys: Sequence[str]
    sources: Sequence[str]
    """Paths of the videos, as they were packed."""
    scores: np.ndarray
    """(N, C) float32."""
    classes: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    """Names of the classes of the further levels of labels."""
    level_scores: Mapping[str, np.ndarray]
    """(N, classes of the level) float32 of those levels that the network predicts."""

    def best(self, count: int) -> np.ndarray:
        """Return the label ids (N, count) of the highest scores, the highest first; fewer if there are no more."""
        return np.argsort(-self.scores, 1, kind="stable")[:, :count]


@dataclass(frozen=True)
class Form:
    """A kind of file."""

    name: str
    """Of the file that is written."""
    write: Callable[[Path, SplitScores, Sequence[int]], None]
    """Write (file, scores, supervision levels)."""
    needs_levels_of_supervision: bool = False
    check: Callable[[Sequence[str], tuple[str, ...], Mapping[str, tuple[str, ...]]], object] = lambda *_: None
    """Raise UserError if a split of these keys, classes and further levels cannot be written in this form."""


def check_supervision(form: str | None, levels: Sequence[int]) -> tuple[int, ...]:
    """Return the levels of supervision (pre-training, labels, data) that a submission declares; none if it has none.

    Raises:
        UserError: they are lacking, out of bounds, or not of this form.
    """
    needed = form is not None and FORMS[form].needs_levels_of_supervision
    shown = f"--sls {' '.join(map(str, levels))}"
    if needed and not levels:
        raise UserError(
            f"--submission {form}: declare its supervision with --sls PT TL TD, three levels from 0 to 5 "
            "(github.com/epic-kitchens/SLS)"
        )
    if levels and not needed:
        raise UserError(f"{shown}: only --submission epic-kitchens declares it; leave it out")
    if not all(0 <= level <= 5 for level in levels):
        raise UserError(f"{shown}: use levels from 0 to 5 (github.com/epic-kitchens/SLS)")
    return tuple(levels)


def _videos_of(keys: Sequence[str], *_) -> list[str]:
    """Return the names of the videos that Kinetics' keys are clips of. Raises UserError if two are of one."""
    clips = [_CLIP.fullmatch(key) for key in keys]
    videos = [clip[1] if clip else key for clip, key in zip(clips, keys)]
    if twice := [video for video, count in Counter(videos).items() if count > 1]:
        raise UserError(f"video {twice[0]} has two clips in the split, but in this form each video is one")
    return videos


def _write_kinetics(path: Path, split: SplitScores, _: Sequence[int]) -> None:
    results: dict[str, list[dict[str, object]]] = {}
    for video, scores, best in zip(_videos_of(split.keys), split.scores, split.best(TOP)):
        results[video] = [{"label": split.classes[i], "score": round(float(scores[i]), 6)} for i in best]
    content = {"version": "KINETICS VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def _write_classes(path: Path, split: SplitScores, _: Sequence[int]) -> None:
    _write_rows(path, ([key, split.classes[best]] for key, (best,) in zip(split.keys, split.best(1))), ";")


def _write_ids(path: Path, split: SplitScores, _: Sequence[int]) -> None:
    _write_rows(path, ([key, *best] for key, best in zip(split.keys, split.best(TOP).tolist())), ";")


def _write_moments(path: Path, split: SplitScores, _: Sequence[int]) -> None:
    names = (PurePath(source).name for source in split.sources)
    lines = (f"{name} {' '.join(split.classes[i] for i in best)}\n" for name, best in zip(names, split.best(TOP)))
    write_atomically(path, "".join(lines))


def _write_csv(path: Path, split: SplitScores, _: Sequence[int]) -> None:
    best = split.best(TOP)
    heading = [
        "key",
        *(f"{what}_{place}" for place in range(1, best.shape[1] + 1) for what in ("class", "probability")),
    ]
    rows = (
        [key, *(field for i in places for field in (split.classes[i], f"{scores[i]:.6f}"))]
        for key, scores, places in zip(split.keys, split.scores, best)
    )
    _write_rows(path, [heading, *rows], ",")


def _write_rows(path: Path, rows, delimiter: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())


def _write_epic_kitchens(path: Path, split: SplitScores, supervision: Sequence[int]) -> None:
    """Write the logarithms of the probabilities: the server takes the softmax of the scores of verbs and nouns."""
    pairs = _actions(split.keys, split.classes, split.levels)
    scores = {level: _scores_of_level(split, level, place, pairs) for place, level in enumerate(("verb", "noun"))}
    head = {"version": "0.2", "challenge": "action_recognition"}
    head |= dict(zip(("sls_pt", "sls_tl", "sls_td"), supervision))
    names = {level: list(map(str, range(values.shape[1]))) for level, values in scores.items()}
    actions = [f"{verb},{noun}" for verb, noun in pairs.tolist()]
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(zipfile.ZipInfo("test.json"), "w") as file,  # of no time, so that the same gives the same bytes
    ):
        file.write(f'{json.dumps(head)[:-1]}, "results": {{'.encode())
        for number, (key, probabilities) in enumerate(zip(split.keys, split.scores)):
            entry = {level: dict(zip(names[level], _logarithms(values[number]))) for level, values in scores.items()}
            best = np.argsort(-probabilities, kind="stable")[:NUM_ACTIONS]
            entry["action"] = dict(zip((actions[i] for i in best), _logarithms(probabilities[best])))
            file.write(f"{', ' if number else ''}{json.dumps(key)}: {json.dumps(entry)}".encode())
        file.write(b"}}\n")


def _actions(_: Sequence[str], classes: tuple[str, ...], levels: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Return the ids of the verb and the noun (C, 2) of each class. Raises UserError if they are no such pairs."""
    verbs, nouns = (levels.get(level, ()) for level in ("verb", "noun"))
    places = {f"{verb} {noun}": (v, n) for v, verb in enumerate(verbs) for n, noun in enumerate(nouns)}
    if not all(name in places for name in classes):
        raise UserError("this form is of splits packed with --dataset epic-kitchens, whose levels are verb and noun")
    return np.array([places[name] for name in classes], np.int64).reshape(-1, 2)


def _scores_of_level(split: SplitScores, level: str, place: int, pairs: np.ndarray) -> np.ndarray:
    """Return the network's own probabilities on a level, or else the sums of those of the actions."""
    if level in split.level_scores:
        return split.level_scores[level]
    sums = np.zeros((len(split.levels[level]), len(split.keys)), np.float64)
    np.add.at(sums, pairs[:, place], split.scores.T)
    return sums.T


def _logarithms(probabilities: np.ndarray) -> list[float]:
    return np.log(np.maximum(probabilities.astype(np.float64), _LOWEST)).round(4).tolist()


FORMS: Mapping[str, Form] = {
    "csv": Form("predictions.csv", _write_csv),
    "epic-kitchens": Form("submission.zip", _write_epic_kitchens, needs_levels_of_supervision=True, check=_actions),
    "jester": Form("submission.csv", _write_classes),
    "kinetics": Form("submission.json", _write_kinetics, check=_videos_of),
    "moments": Form("submission.txt", _write_moments),
    "something-v1": Form("submission.csv", _write_classes),
    "something-v2": Form("submission.csv", _write_ids),
}
