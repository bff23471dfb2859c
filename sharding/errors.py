"""The errors that cross rooms: what a person did and can correct, and what a media file is to blame for."""


class UserError(ValueError):
    """Something the person at the keyboard did and can mend; the message says what, where, and what to do."""


class MediaError(Exception):
    """A video that cannot be read or written. `kind` says what failed: missing, open, decode or encode."""

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def check_minimum(options: object, minimum: float, *names: str, prefix: str = "") -> None:
    """Check that options are `minimum` or more, and no NaN.

    Raises:
        UserError: the first of `names` that is not; the message writes `prefix` in front of its name.
    """
    for name in names:
        value = getattr(options, name)
        if not value >= minimum:
            raise UserError(f"{prefix}{name}={value}: use {minimum} or more")
