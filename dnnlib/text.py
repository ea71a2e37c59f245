"""Pieces of messages."""

LONGEST = 200                   # characters of a quoted text


def some(items: list[str], count: int = 6) -> str:
    """'a, b, c, ... (9 in all)'."""
    return ', '.join(items[:count]) + (f', ... ({len(items)} in all)' if len(items) > count else '')


def size_of(channels: int, height: int, width: int) -> str:
    """'64x48 RGB': width, height and kind of images."""
    return f'{width}x{height} {"grey" if channels == 1 else "RGB"}'


def yes_or_no(value: object) -> str | None:
    """In tables, which leave out what is None."""
    return None if value is None else 'yes' if value else 'no'


def rounded(value: float) -> str:
    """Two digits of a number that is suggested: 333.3 -> '330'."""
    return f'{float(f"{value:.2g}"):g}'


def one_line(text: object) -> str:
    """The beginning of what an exception or a file says, in one line."""
    line = ' '.join(str(text).split())
    return line if len(line) <= LONGEST else line[:LONGEST] + '...'


def gist(err: Exception, line: int | None = None) -> str:
    """'ValueError: what it says', in one line.

    Args:
        line: take only this one of its lines that are not empty: 0 the first, -1 the last; None = all.
    """
    lines = [part for part in str(err).splitlines() if part.strip()]
    said = one_line(err if line is None or not lines else lines[line])
    return f'{type(err).__name__}: {said}' if said else type(err).__name__
