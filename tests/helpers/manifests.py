"""Manifests that are changed by hand, as an attacker or a careless person would, and fit their fingerprint again."""

import json
from pathlib import Path
from typing import Any

from sharding.files import file_sha256
from sharding.manifest import FRAMES, MANIFEST, TABLE, Manifest, fingerprint_of


def edit_manifest(split: Path, **values: Any) -> None:
    """Give fields of manifest.json other values, and it the fingerprint and hashes that go with its folder."""
    path = split / MANIFEST
    manifest = json.loads(path.read_text()) | values
    if manifest.get("table_sha256"):
        manifest["table_sha256"] = file_sha256(split / TABLE)
    if manifest.get("frames_sha256"):
        manifest["frames_sha256"] = file_sha256(split / FRAMES)
    path.write_text(json.dumps(manifest | {"fingerprint": fingerprint_of(_as_read(manifest))}))


def _as_read(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return all fields with those that older versions leave out; as they are where they make no manifest."""
    try:
        return vars(Manifest.from_values(manifest))
    except (KeyError, TypeError, ValueError, AttributeError):
        return {name: value for name, value in manifest.items() if name != "shards"}
