"""YAML of others, such as the configuration in a checkpoint."""

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Return plain values; whatever is wrong with the text, which may come from anybody, is a ValueError."""
    try:
        # An alias may repeat what has aliases itself, and a line of them fill the memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("aliases (*name) in it")
        return yaml.safe_load(text)
    except (RecursionError, yaml.YAMLError, TypeError, AttributeError, OverflowError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        raise ValueError(reason) from error
