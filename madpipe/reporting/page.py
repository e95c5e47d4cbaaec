"""The skeleton of a page: one HTML file that fetches nothing, for phones, paper, light and dark screens."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO

import matplotlib
from matplotlib.figure import Figure
from matplotlib.legend import Legend

INK = "#010203"  # drawn in place of the page's own text colour, which an inline SVG then takes
BLACK = "#000000"
PAPER = "#fdfcfb"  # drawn in place of the page's own background
REM_PER_INCH = 3.6  # of a figure's width, below which its letters could not be read

STYLE = """
:root { color-scheme: light dark; --paper: #fff; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem;
       color: #1a1a1a; background: var(--paper); overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; }
p, ul { max-width: 45rem; }
.lead { border-left: .25rem solid #0072b2; padding-left: .75rem; }
.side { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: flex-start; }
.side figure { min-width: 0; max-width: 100%; }
pre { font-size: .8125rem; white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem .8rem; background: #8881; }
summary { cursor: pointer; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th { font-weight: 600; }
.word { text-align: left; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
figure { margin: 1rem 0; }
figure svg { height: auto; max-width: 100%; fill: currentColor; }
figcaption { font-size: .875rem; }
@media (max-width: 40rem) {
  th { white-space: normal; vertical-align: bottom; }
  .word:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9.5rem; max-width: 9.5rem; }
  .facts .word:first-child { min-width: 7rem; }
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; }
  body { color: #e6e6e6; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; }
  body { color: #000; max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .3rem; white-space: normal; }
  th:first-child, td:first-child { position: static; background: none; }
  figure, tr { break-inside: avoid; }
  h2, h3, .lead { break-after: avoid; }
  figure svg { min-width: 0 !important; max-height: 8.5cm; }
  .side figure { width: calc(50% - .5rem); }
  details::details-content { content-visibility: visible; }
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


def facts(rows: Mapping[str, object]) -> str:
    """Names to the left, what they are beside them."""
    lines = "".join(
        f"<tr><td class=word>{escape(k)}</td><td class=word>{escape(str(v))}</td></tr>" for k, v in rows.items()
    )
    return f'<div class="wide facts"><table>{lines}</table></div>'


def lead(text: str) -> str:
    """The sentence that opens a section: what to look for, and what would be bad."""
    return f'<p class="lead">{escape(text)}</p>'


def preformatted(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, *parts: str, shown: bool = False) -> str:
    """Parts that are shown when asked for, or until they are put away."""
    opening = "<details open>" if shown else "<details>"
    return "\n".join([f"{opening}<summary>{escape(summary)}</summary>", *parts, "</details>"])


def side_by_side(*drawings: str) -> str:
    """Drawings beside each other where the screen is wide enough."""
    return "\n".join(['<div class="side">', *drawings, "</div>"])


def drawing(figure: Figure, caption: str, label: str) -> str:
    """The figure as inline SVG with text as text; what is black or drawn in INK takes the page's text colour.

    `label` is told to those who do not see it, and keeps the names inside apart from those of other drawings.
    """
    for legend in figure.findobj(Legend):
        legend.get_frame().set_facecolor(PAPER)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = re.sub(f"(?<=: )({INK}|{BLACK})", "currentColor", svg[svg.index("<svg") :])
    svg = svg.replace(f": {PAPER}", ": var(--paper)")
    before, _, after = svg.partition("<metadata>")
    svg = before + after.partition("</metadata>")[2] if after else svg
    narrowest = f"min-width: {REM_PER_INCH * figure.get_figwidth():.0f}rem"
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}" style="{narrowest}"', 1)
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="wide">{svg}</div>{under}</figure>'


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
