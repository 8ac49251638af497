"""Sections to one HTML page that needs no other file and asks for none; light or dark as the reader has it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1d2126;--soft:#5b6470;--rule:#d5dae0;--panel:#f5f7f9;--accent:#0b61c4;
--bad:#b3261e;--good:#1b7f3b;--k0:#0072b2;--k1:#c24e00;--k2:#00795a;--k3:#a8487c;--k4:#2a86bd;--k5:#9a6a00;--k6:#1d2126;
--k7:#5b6470}
@media (prefers-color-scheme:dark){:root{--back:#15181c;--text:#e6e9ed;--soft:#a3adb8;--rule:#3a424b;--panel:#1f242a;
--accent:#79b4ff;--bad:#ff8f85;--good:#6fd38d;--k0:#4ba6e0;--k1:#f08a3c;--k2:#2fc79b;--k3:#e09bc0;--k4:#8ccbf2;
--k5:#f0b93a;--k6:#e6e9ed;--k7:#a3adb8}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1rem;background:var(--back);
color:var(--text)}
h1{font-size:1.6rem;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2em 0 .5em;border-bottom:1px solid var(--rule);padding-bottom:.2em}
h3{font-size:1rem;margin:1.2em 0 .3em}
a{color:var(--accent)}a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--accent);
outline-offset:2px}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:.5rem;background:var(--back)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0}
.note{color:var(--soft);max-width:46rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem;margin:1rem 0;padding:0;
list-style:none}
.numbers li{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:.6rem .8rem}
.numbers b{font-size:1.5rem;display:block;font-variant-numeric:tabular-nums}.numbers small{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.2rem;overflow-wrap:anywhere}
svg{width:100%;height:auto;background:var(--panel);border-radius:8px}svg text{fill:var(--soft);font-size:12px}
@media (max-width:30rem){svg text{font-size:14px}}
.grid{stroke:var(--rule)}.guide{stroke:var(--soft);stroke-dasharray:4 4;fill:none}.line{fill:none;stroke-width:2}
.c0{stroke:var(--k0);background:var(--k0)}.c1{stroke:var(--k1);background:var(--k1)}
.c2{stroke:var(--k2);background:var(--k2)}.c3{stroke:var(--k3);background:var(--k3)}
.c4{stroke:var(--k4);background:var(--k4)}.c5{stroke:var(--k5);background:var(--k5)}
.c6{stroke:var(--k6);background:var(--k6)}.c7{stroke:var(--k7);background:var(--k7)}
.bar{fill:var(--k0);stroke:none}.dot{fill:var(--k0)}
.legend{margin:.2rem 0 0;display:flex;flex-wrap:wrap;gap:.2rem .9rem;font-size:.85rem;color:var(--soft)}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.3em;border-radius:2px}
.side{display:flex;flex-wrap:wrap;gap:.5rem 2.5rem;align-items:flex-start}.side .charts{flex:1 1 26rem;min-width:0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
caption{text-align:left;font-weight:600;padding:.3em 0}
td,th{padding:.25em .7em;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td.words,th.words{text-align:left}td.words{white-space:normal;min-width:min(14rem,50vw);overflow-wrap:anywhere}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,34rem),1fr));gap:1.2rem}
.pictures.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}
.pictures img{width:100%;height:auto;border-radius:6px;display:block}
.pictures figcaption{font-weight:400;font-size:.9rem}
pre{overflow-x:auto;background:var(--panel);padding:.8rem;border-radius:8px;font-size:.85rem}
summary{cursor:pointer;font-weight:600}
"""
SMALL = 600
"""Pictures of fewer pixels in width stand several in a row."""
TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{ title }}</title><link rel="icon" href="data:,"><style>{{ style }}</style></head><body>
<a class="skip" href="#content">To the content</a>
<header><h1>{{ title }}</h1><p class="note">{{ about }}</p>
<nav aria-label="Sections"><ul>{% for s in sections %}<li><a href="#s{{ loop.index }}">{{ s.title }}</a></li>
{%- endfor %}</ul></nav></header>
<main id="content">
{% for s in sections %}<section id="s{{ loop.index }}" aria-labelledby="h{{ loop.index }}">
<h2 id="h{{ loop.index }}">{{ s.title }}</h2>
{% if s.note %}<p class="note">{{ s.note }}</p>{% endif %}
{% if s.numbers %}<ul class="numbers">{% for n in s.numbers %}<li><small>{{ n.name }}</small><b>{{ n.value }}</b>
<small>{{ n.detail }}</small></li>{% endfor %}</ul>{% endif %}
{% if s.pictures %}<div class="pictures{{ " small" if s.pictures[0].width < small }}">{% for p in s.pictures %}<figure>
<img alt="{{ p.words }}" src="data:image/jpeg;base64,{{ p.jpeg }}" width="{{ p.width }}" height="{{ p.height }}"
 loading="lazy"><figcaption>{{ p.words }}</figcaption></figure>{% endfor %}</div>{% endif %}
{% if s.charts or s.tables %}<div class="side">
{% if s.charts %}<div class="charts">{% for c in s.charts %}{{ c }}{% endfor %}</div>{% endif %}
{% for t in s.tables %}<div class="scroll" tabindex="0" role="region" aria-label="{{ t.title }}"><table>
<caption>{{ t.title }}</caption><thead><tr>{% for c in t.header -%}
<th scope="col"{{ t.css(loop.index0) }}>{{ c }}</th>{%- endfor %}</tr></thead>
<tbody>{% for row in t.rows %}<tr>{% for c in row %}{% if loop.first %}<th scope="row">{{ c }}</th>{% else -%}
<td{{ t.css(loop.index0) }}>
{{- c }}
</td>{% endif %}{% endfor %}</tr>{% endfor %}</tbody></table></div>{% endfor %}</div>{% endif %}
{% for d in s.details %}<details><summary>{{ d.title }}</summary><pre tabindex="0">{{ d.text }}</pre></details>
{% endfor %}</section>
{% endfor %}</main></body></html>
"""


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def css(self, column: int) -> Markup:
        """What a cell of a column is marked with: one that holds words is read from the left."""
        cells = [str(row[column]) for row in self.rows if row[column] != ""]
        is_words = column > 0 and bool(cells) and all(cell[:1].isalpha() for cell in cells)
        return Markup(' class="words"' if is_words else "")


@dataclass(frozen=True)
class Picture:
    """A JPEG in base64, and what it shows."""

    jpeg: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class Number:
    """One number of the headline."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Text:
    """What is unfolded when asked for."""

    title: str
    text: str


@dataclass
class Section:
    """One part of the page; those that hold nothing are left out."""

    title: str
    note: str = ""
    numbers: Sequence[Number] = ()
    charts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    details: Sequence[Text] = ()
    values: dict[str, Any] = field(default_factory=dict)
    """What report.json says of it."""

    def __bool__(self) -> bool:
        return any((self.numbers, any(self.charts), self.tables, self.pictures, self.details))


def render(title: str, about: str, sections: Sequence[Section]) -> str:
    """The page."""
    shown = []
    for section in sections:
        if section:
            section.charts = [Markup(chart) for chart in section.charts if chart]
            shown.append(section)
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(title=title, about=about, sections=shown, style=Markup(STYLE), small=SMALL)
