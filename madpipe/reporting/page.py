"""The skeleton of a page: one HTML file that fetches nothing, for phones, paper, light and dark screens."""

from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

INK = "#010203"  # drawn in place of the page's own text colour, which an inline SVG then takes

STYLE = """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem;
       color: #1a1a1a; background: #fff; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
p { max-width: 45rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
.word { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
figure { margin: 1rem 0; }
figure svg { height: auto; min-width: 36rem; max-width: 100%; }
figcaption { font-size: .875rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #16181c; }
  th:first-child, td:first-child { background: #16181c; }
}
@media print {
  body { color: #000; background: #fff; max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .3rem; white-space: normal; }
  th:first-child, td:first-child { position: static; background: none; }
  figure, tr { break-inside: avoid; }
  figure svg { min-width: 0; width: 100%; }
}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole document; `parts` are HTML already, `title` is not."""
    name = escape(title)
    narrow = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{narrow}<title>{name}</title>'
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Columns of the first row; numbers with three decimals to the right, words to the left, nothing for None."""
    names = list(rows[0])
    words = {name for name in names if all(_is_word(row[name]) for row in rows)}
    lines = [_line("th", names, names, words)]
    lines += [_line("td", [_shown(row[name]) for name in names], names, words) for row in rows]
    return (
        f'<div class="wide"><table>\n<thead>{lines[0]}</thead>\n<tbody>\n'
        + "\n".join(lines[1:])
        + "\n</tbody></table></div>"
    )


def drawing(figure: Figure, caption: str, label: str) -> str:
    """The figure as inline SVG with text as text; what is drawn in INK takes the page's text colour.

    `label` is told to those who do not see it, and keeps the names inside apart from those of other drawings.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    before, _, after = svg.partition("<metadata>")
    svg = before + after.partition("</metadata>")[2] if after else svg
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    return f'<figure><div class="wide">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def _line(tag: str, cells: Sequence[str], names: Sequence[str], words: set[str]) -> str:
    marked = (
        f"<{tag}{' class=word' if name in words else ''}>{escape(cell)}</{tag}>"
        for cell, name in zip(cells, names, strict=True)
    )
    return f"<tr>{''.join(marked)}</tr>"


def _is_word(value: object) -> bool:
    return isinstance(value, str) and not value[:1].isdigit()


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
