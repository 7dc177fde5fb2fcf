"""Pieces of an HTML page; all text is escaped here."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Iterable[str], rows: Iterable[Sequence[Any]], roles: Sequence[str]) -> str:
    """A table; rows of the role `baseline` are marked. Numbers are set to the right and shortened."""
    body = []
    for role, row in zip(roles, rows, strict=True):
        mark = ' class="baseline"' if role == "baseline" else ""
        body.append(f"<tr{mark}>{''.join(_cell(value) for value in row)}</tr>")
    head = "".join(f"<th>{escaped(name)}</th>" for name in header)
    return f'<div class="wide"><table><tr>{head}</tr>\n{chr(10).join(body)}\n</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    if isinstance(value, float):
        return f'<td class="n">{number(value)}</td>'
    return f"<td{' class=reason' if len(value) > 40 else ''}>{escaped(value)}</td>"


def number(value: float) -> str:
    """Four significant digits, three decimals below 1."""
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1 else f"{value:.4g}"


def percent(fraction: float) -> str:
    """A share as per cent."""
    return f"{100 * fraction:.3g} %"


def image(png: bytes, description: str) -> str:
    """A PNG file's bytes as an embedded image."""
    return f'<img alt="{escaped(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def escaped(value: str) -> str:
    """Text fit for any place in HTML, attributes too."""
    return html.escape(value, quote=True)
