"""Whether a result is of the settings that are asked for."""


def agree(recorded: object, present: object) -> bool:
    """Return whether what was recorded holds now; of options that came later nothing is known.

    >>> agree({"depth": 18}, {"depth": 18, "new": 1}), agree({"depth": 18}, {"depth": 50}), agree({"old": 1}, {})
    (True, False, False)
    """
    if not isinstance(recorded, dict) or not isinstance(present, dict):
        return recorded == present
    return all(name in present and agree(value, present[name]) for name, value in recorded.items())
