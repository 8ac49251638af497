"""The doctor's report as one page that needs no other file: what is wrong, with pictures of it."""

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment
from PIL import Image, ImageDraw, ImageFont

from tasks.data.quality.issues import ISSUES, IssueReport
from tasks.data.quality.report import Report

MAX_SIDE = 480
MAX_LISTED = 100
BAD, GOOD = (220, 30, 30), (90, 160, 90)
TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Data report</title><style>
body{font:15px/1.45 sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{text-align:left;padding:.2em .8em;border-bottom:1px solid #ddd}
.error{color:#b00020}.warning{color:#8a6000}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top;
max-width:480px}figcaption{font-size:13px;overflow-wrap:anywhere}img{max-width:100%}li{overflow-wrap:anywhere}
</style><h1>Data report</h1>
<p>{% for name, split in splits.items() %}{{ name }}: {{ split.num_images }} images
{%- if split.objects %}, {{ split.objects.ids|length }} annotations{% endif %}
{{- "; " if not loop.last }}{% endfor %}</p>
{% for name, split in splits.items() %}{% for note in split.notes %}<p>{{ name }}: {{ note }}</p>
{% endfor %}{% endfor %}
{% if not sections %}<p>No issue found.</p>{% else %}
<table><tr><th>issue</th><th></th><th>count</th></tr>{% for issue, found, _ in sections %}
<tr><td><a href="#{{ issue.name|replace(" ", "-") }}">{{ issue.name }}</a></td>
<td class="{{ issue.severity }}">{{ issue.severity }}</td><td>{{ found|length }}</td></tr>{% endfor %}
</table>{% endif %}
{% if has_policy %}<p>In italics: what <code>data.on_invalid=fix</code> does about it.</p>{% endif %}
{% for issue, found, figures in sections %}
<h2 id="{{ issue.name|replace(" ", "-") }}" class="{{ issue.severity }}">{{ issue.name }} ({{ found|length }})</h2>
{% for picture, caption in figures %}<figure><img alt="" src="data:image/jpeg;base64,{{ picture }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
<ul>{% for f in found[:most] %}
<li>{{ f.split }}: {{ f }}
{%- if has_policy %} <i>({{ f.remedy }}{{ ": " + f.after_fix if f.after_fix }})</i>{% endif %}</li>
{% endfor %}{% if found|length > most %}<li>… and {{ found|length - most }} more in report.json</li>{% endif %}</ul>
{% endfor %}</html>
"""


def page(report: Report, num_pictures: int) -> str:
    """HTML with at most `num_pictures` pictures of each kind of issue; bad boxes are red, all others green."""
    sections = []
    for issue in ISSUES:
        found = [finding for finding in report.findings if finding.issue is issue]
        if found:
            pictures = [(draw(report, group), group) for group in worst(found)[:num_pictures]]
            figures = [(encoded(drawn), caption(group)) for drawn, group in pictures if drawn is not None]
            sections.append((issue, found, figures))
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(
        sections=sections, splits=report.splits, most=MAX_LISTED, has_policy=report.has_policy
    )


def worst(found: list[IssueReport]) -> list[list[IssueReport]]:
    """The findings by image, those of the image that has the most of them first."""
    groups: dict[tuple[str, str | None], list[IssueReport]] = {}
    for finding in found:
        if finding.file_name is not None:
            groups.setdefault((finding.split, finding.file_name), []).append(finding)
    return sorted(groups.values(), key=len, reverse=True)


def draw(report: Report, group: list[IssueReport]) -> Image.Image | None:
    """The image of the findings with its boxes as they stand in the file, shrunk; None where it cannot be read."""
    first = group[0]
    split = report.splits[first.split]
    assert first.file_name is not None
    try:
        image = Image.fromarray(split.storage.image(first.file_name))
    except (ValueError, FileNotFoundError):
        return None
    scale = min(1.0, MAX_SIDE / max(image.size)) if max(image.size) > 64 else MAX_SIDE / 2 / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    raw = split.objects
    if raw is None:
        return image
    pen = ImageDraw.Draw(image)
    bad = {finding.annotation_id for finding in group if finding.annotation_id is not None}
    index = raw.file_names.index(first.file_name)
    rows = np.flatnonzero((raw.images == index) | np.isin(raw.ids, list(bad)))
    for row in sorted(rows.tolist(), key=lambda row: raw.ids[row] in bad):
        with np.errstate(invalid="ignore", over="ignore"):
            corners = np.concatenate([raw.boxes[row, :2], raw.boxes[row, :2] + raw.boxes[row, 2:]]) * scale
        if not np.isfinite(corners).all():
            continue
        limits = [image.width - 1, image.height - 1]
        low = np.minimum(corners[:2], corners[2:]).clip(0, limits)
        high = np.maximum(corners[:2], corners[2:]).clip(0, limits)
        is_bad = raw.ids[row] in bad
        pen.rectangle((*low, *high), outline=BAD if is_bad else GOOD, width=3 if is_bad else 1)
        if is_bad:
            font = ImageFont.load_default(14)
            place = pen.textbbox((low[0], max(0.0, low[1] - 18)), str(raw.ids[row]), font=font)
            pen.rectangle(place, fill=BAD)
            pen.text(place[:2], str(raw.ids[row]), fill=(255, 255, 255), font=font, anchor="lt")
    return image


def encoded(picture: Image.Image) -> str:
    """A JPEG of the picture in base64."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def caption(group: list[IssueReport]) -> str:
    """What is wrong in the picture of these findings."""
    ids = ", ".join(str(f.annotation_id) for f in group[:12] if f.annotation_id is not None)
    what = f"annotations {ids}" if ids else group[0].detail
    return f"{group[0].split}: {Path(group[0].file_name or '').name}; {what}"
