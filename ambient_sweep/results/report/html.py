"""Pieces of an HTML page that is well-formed XML as well; all text is escaped here."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any


def table(header: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table. Numbers are set to the right and shortened; None is an empty cell."""
    head = "".join(f"<th>{escaped(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}\n</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value:,}</td>'
    if isinstance(value, float):
        return f'<td class="n">{number(value)}</td>'
    return f"<td>{escaped(value or '')}</td>"


def number(value: float) -> str:
    """Four significant digits, three decimals below 1."""
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1 else f"{value:.4g}"


def percent(fraction: float) -> str:
    """A share as per cent."""
    return f"{100 * fraction:.3g} %"


def figure(png: bytes, description: str, caption: str = "") -> str:
    """A PNG file's bytes as an embedded image, with a caption that is escaped already."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img alt="{escaped(description)}" src="{source}"/><figcaption>{caption}</figcaption></figure>'


def bullets(items: Iterable[str]) -> str:
    """A list of items that are escaped already."""
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def escaped(value: str) -> str:
    """Text fit for any place in HTML, attributes too."""
    return html.escape(value, quote=True)
