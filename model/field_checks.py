"""What the dataclasses of a network's configuration check of their fields."""

from typing import Literal, get_args, get_origin


def check_plain(config: object, prefix: str) -> None:
    """Raise ValueError for a bool, int or Literal field with a value of another type or not among the choices."""
    for name, annotation in type(config).__annotations__.items():
        value = getattr(config, name)
        if get_origin(annotation) is Literal and value not in get_args(annotation):
            raise ValueError(f"{prefix}.{name}={value!r}: allowed are {', '.join(map(str, get_args(annotation)))}")
        if annotation in (bool, int) and type(value) is not annotation:
            raise ValueError(f"{prefix}.{name}={value!r}: allowed is a value of type {annotation.__name__}")


def check_counts(config: object, *names: str, prefix: str) -> None:
    """Raise ValueError for the first of the fields that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{prefix}.{name}={getattr(config, name)}: allowed is >= 1")
