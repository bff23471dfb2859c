"""Predictions over time for people and for programs: lines, rows of JSON, CSV, and ActivityNet's results."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from launch.inference.window_predictions import LongPrediction
from sharding.errors import UserError
from sharding.files import printable, write_atomically

ACTIVITYNET_VERSION = "VERSION 1.3"


def long_row(prediction: LongPrediction, classes: Sequence[str], top: int) -> dict:
    """Return a prediction as plain values: its windows, segments, and what is lost."""
    return {
        "video": str(prediction.video),
        "seconds": round(prediction.duration, 3),
        "windows": [
            {
                "start": round(window.start, 3),
                "end": round(window.end, 3),
                "predictions": [
                    {"class": name, "probability": round(value, 6)} for name, value in window.top(classes, top)
                ],
            }
            for window in prediction.windows
        ],
        "segments": [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "class": segment.label,
                "probability": round(segment.score, 6),
            }
            for segment in prediction.segments
        ],
        "windows_lost": prediction.num_lost,
        "lost": [
            {"start": round(loss.start, 3), "end": round(loss.end, 3), "reason": loss.reason}
            for loss in prediction.losses
        ],
    }


def describe_long_row(row: dict) -> str:
    """Return a row as lines of text: a table of times and classes, and what is lost."""
    lines = [row["video"]]
    if "error" in row:
        return f"{lines[0]}\n      failed: {row['error']}"
    width = len(clock(row["seconds"]))
    for each in row["segments"]:
        times = f"{clock(each['start']):>{width}} - {clock(each['end']):>{width}}"
        lines.append(f"  {times}  {each['probability']:6.1%}  {each['class']}")
    lines += [f"      lost: {clock(each['start'])} - {clock(each['end'])}: {each['reason']}" for each in row["lost"]]
    if row["windows_lost"]:
        lines.append(f"      {row['windows_lost']} window(s) have no class, as frames of theirs are lost")
    if "overlay" in row:
        lines.append(f"      drawn: {row['overlay']}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """Return seconds as hours, minutes, seconds.

    >>> clock(75.25), clock(3600.0)
    ('1:15.2', '1:00:00.0')
    """
    tenths = int(seconds * 10 + 1e-6)
    minutes, hours = tenths // 600 % 60, tenths // 36000
    rest = f"{tenths % 600 // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Write a line for each window and class, the likeliest first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "start", "end", "rank", "class", "probability"])
    for row in rows:
        for window in row.get("windows", ()):
            for rank, each in enumerate(window["predictions"], 1):
                values = window["start"], window["end"], rank, each["class"], each["probability"]
                table.writerow([printable(row["video"]), *values])
    write_atomically(path, text.getvalue())


def write_activitynet(path: Path, rows: Sequence[dict]) -> None:
    """Write the segments as results for ActivityNet's evaluation, by the files' names without suffix."""
    results = {
        Path(row["video"]).stem: [
            {"label": each["class"], "score": each["probability"], "segment": [each["start"], each["end"]]}
            for each in row["segments"]
        ]
        for row in rows
        if "segments" in row
    }
    values = {"version": ACTIVITYNET_VERSION, "results": results, "external_data": {}}
    write_atomically(path, json.dumps(values, indent=1) + "\n")


def check_names(videos: Sequence[Path]) -> None:
    """Raise UserError if two files have one name, by which ActivityNet's results would take them for the same."""
    seen: dict[str, Path] = {}
    for video in videos:
        if video.stem in seen:
            raise UserError(
                f"--activitynet: {seen[video.stem]} and {video} have the same name, by which results go; rename one"
            )
        seen[video.stem] = video
