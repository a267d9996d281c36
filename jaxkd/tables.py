"""Tables as plain text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence

Row = Sequence[str]


def text_table(rows: Sequence[Row], right: Collection[int] = (), gap: str = "  ") -> list[str]:
    """Return the lines of a table whose columns are aligned.

    Args:
      rows: of equal length, the names of the columns first, if they have any.
      right: the columns, counted from 0, that are aligned to the right, as numbers are.
      gap: between columns.

    Example:
      >>> print(*text_table([("layer", "parameters"), ("conv1", "432"), ("fc", "6,500")], right=[1]), sep="\\n")
      layer  parameters
      conv1         432
      fc          6,500
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            text.rjust(width) if position in right else text.ljust(width)
            for position, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(gap.join(cells).rstrip())
    return lines


def html_table(header: Row, rows: Sequence[Row], right: Collection[int] = (), caption: str = "") -> str:
    """Return a table in HTML, for notebooks; what it is given is text and is escaped.

    Args:
      header: the names of the columns.
      rows: as long as the header.
      right: the columns, counted from 0, that are aligned to the right.
      caption: above it.

    Example:
      >>> html_table(("a",), [("<1",)])
      '<table><tr><th style="text-align:left">a</th></tr><tr><td style="text-align:left">&lt;1</td></tr></table>'
    """

    def line(row: Row, tag: str) -> str:
        cells = (
            f'<{tag} style="text-align:{"right" if position in right else "left"}">{html.escape(text)}</{tag}>'
            for position, text in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    title = f'<caption style="text-align:left">{html.escape(caption)}</caption>' if caption else ""
    return f"<table>{title}{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def number(value: float | None) -> str:
    """Return a measured value in about six characters, and nothing for what was not measured.

    Example:
      >>> [number(value) for value in (0.98765, 4.60517, 15.0, 0.00025, 12345.6, 2.5e7, None)]
      ['0.9877', '4.6052', '15.0000', '0.00025', '12346', '2.5e+07', '']
    """
    if value is None:
        return ""
    if 1e3 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"
