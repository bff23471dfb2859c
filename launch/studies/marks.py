"""Pages of which a part is written by a program, between two marks."""

from sharding.errors import UserError

END = "<!-- end of what is written -->"


def begin_mark(program: str) -> str:
    """Return the line above what a program writes."""
    return f"<!-- written by {program} -->"


def with_written(page: str, program: str, written: str, where: object) -> str:
    """Return a page in which `written` stands between the marks of a program, whatever stood there.

    Raises:
        UserError: the page, which is called `where`, lacks a mark.
    """
    begin = begin_mark(program)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise UserError(f"{where}: lacks the line {begin}, or {END} below it")
    return f"{before}{begin}\n\n{written}\n\n{END}{after}"
