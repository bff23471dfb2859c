"""Files of features: an array and its description for each video, complete or not there, and one table of all.

OUT/features.json      what all files of the folder have in common; another run may only add to it
OUT/NAME.npy           (T, D) float32
OUT/NAME.json          of the video: when its rows begin, the rate of its frames, what is lost; written last
OUT/features.parquet   video | row | start | end | features, when all files are there
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharding.errors import UserError
from sharding.files import parse_json, printable, replacing, write_atomically

_ROWS_PER_GROUP = 10_000  # of the table; each group costs its readers some hundred bytes

RESERVED = "features"
SETTINGS, TABLE = f"{RESERVED}.json", f"{RESERVED}.parquet"


@dataclass(frozen=True)
class VideoFeatures:
    """The features of one video."""

    name: str
    values: np.ndarray
    """(T, D) float32; NaN in the rows of windows that are lost."""
    starts: Sequence[float]
    """(T,) seconds at which the part that a row is of begins."""
    ends: Sequence[float]
    """(T,) seconds at which it ends."""
    description: Mapping[str, Any]
    """More of the video, as plain values."""


class FeatureFolder:
    """A folder of features.

    Args:
        settings: all that shapes the features, as plain values.

    Raises:
        UserError: the folder holds features of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.check()

    def check(self) -> None:
        """Raise UserError if the folder holds features of other settings."""
        path = self.folder / SETTINGS
        if not path.exists():
            return
        try:
            found = parse_json(path.read_text())
            different = [name for name, value in self.settings.items() if found.get(name) != value]
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error}); give another --out, or remove the folder") from error
        if different:
            name = different[0]
            raise UserError(
                f"{self.folder}: holds features with {name} {found.get(name)}, not {self.settings[name]}; give another "
                "--out, or remove the folder"
            )

    def begin(self) -> None:
        """Make the folder and write what its features have in common."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / SETTINGS, json.dumps(self.settings, indent=1) + "\n")

    def is_done(self, name: str) -> bool:
        """Return whether both files of a video are there."""
        return all((self.folder / f"{name}{suffix}").exists() for suffix in (".json", ".npy"))

    def write(self, features: VideoFeatures) -> None:
        """Write the files of a video, that which makes it complete last."""
        path = self.folder / f"{features.name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = io.BytesIO()
        np.save(array, features.values.astype(np.float32, copy=False))
        write_atomically(path, array.getvalue())
        description = {
            "shape": list(features.values.shape),
            **features.description,
            "starts": [round(float(start), 6) for start in features.starts],
            "ends": [round(float(end), 6) for end in features.ends],
        }
        write_atomically(self.folder / f"{features.name}.json", json.dumps(description) + "\n")

    def write_table(self, names: Sequence[str]) -> Path:
        """Write the features of these videos, all of which are done, as one table, some videos at a time; return it."""
        path, videos = self.folder / TABLE, map(self._rows, names)
        first = next(videos, None)
        if first is None:
            return path
        with replacing(path) as temporary, pq.ParquetWriter(temporary, first.schema) as writer:
            group = [first]
            for rows in videos:
                if sum(map(len, group)) >= _ROWS_PER_GROUP:
                    writer.write_table(pa.concat_tables(group))
                    group = []
                group.append(rows)
            writer.write_table(pa.concat_tables(group))
        return path

    def _rows(self, name: str) -> pa.Table:
        """Return the rows of the table that are of one video."""
        values = np.load(self.folder / f"{name}.npy", allow_pickle=False)
        described = json.loads((self.folder / f"{name}.json").read_text())
        return pa.table(
            {
                "video": pa.array([printable(name)] * len(values), pa.string()),
                "row": pa.array(range(len(values)), pa.int32()),
                "start": pa.array(described["starts"], pa.float64()),
                "end": pa.array(described["ends"], pa.float64()),
                "features": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]),
            }
        )
