"""The doctor's report as one page that needs no other file: what is wrong, with pictures of it."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.data.quality.issues import FAULTS, Finding
from tasks.data.quality.report import Report

MAX_SIDE = 480
MAX_LISTED = 100
BAD, GOOD = (220, 30, 30), (90, 160, 90)
STYLE = """body{font:15px/1.45 sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{text-align:left;padding:.2em .8em;border-bottom:1px solid #ddd}
.error{color:#b00020}.warning{color:#8a6000}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top;
max-width:480px}figcaption{font-size:13px;overflow-wrap:anywhere}img{max-width:100%}li{overflow-wrap:anywhere}"""


def page(report: Report, num_pictures: int) -> str:
    """HTML with at most `num_pictures` pictures of each kind of fault; bad boxes are red, all others green."""
    sections, rows = [], []
    for fault in FAULTS:
        found = [finding for finding in report.findings if finding.fault is fault]
        if not found:
            continue
        anchor = fault.name.replace(" ", "-")
        rows.append(
            f'<tr><td><a href="#{anchor}">{html.escape(fault.name)}</a></td><td class="{fault.severity}">'
            f"{fault.severity}</td><td>{len(found)}</td></tr>"
        )
        figures = []
        for group in worst(found)[:num_pictures]:
            picture = draw(report, group)
            if picture is not None:
                figures.append(figure(picture, group))
        more = (
            f"<li>… and {len(found) - MAX_LISTED} more in report.json</li>" if len(found) > MAX_LISTED else ""
        )
        items = "".join(
            f"<li>{html.escape(f.split)}: {html.escape(str(f))} <i>({f.remedy}"
            f"{html.escape(': ' + f.becomes if f.becomes else '')})</i></li>"
            for f in found[:MAX_LISTED]
        )
        sections.append(
            f'<h2 id="{anchor}" class="{fault.severity}">{html.escape(fault.name)} ({len(found)})</h2>'
            f"{''.join(figures)}<ul>{items}{more}</ul>"
        )
    splits = "; ".join(
        f"{html.escape(name)}: {len(raw)} images, {len(raw.ids)} annotations"
        for name, raw in report.splits.items()
    )
    notes = "".join(
        f"<p>{html.escape(f'{n}: {note}')}</p>" for n, raw in report.splits.items() for note in raw.notes
    )
    table = f"<table><tr><th>fault</th><th></th><th>count</th></tr>{''.join(rows)}</table>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Data report</title><style>{STYLE}</style>'
        f"<h1>Data report</h1><p>{splits}</p>{notes}{table if rows else '<p>No fault found.</p>'}"
        "<p>In italics: what <code>data.on_bad=fix</code> does about it.</p>"
        f"{''.join(sections)}</html>\n"
    )


def worst(found: list[Finding]) -> list[list[Finding]]:
    """The findings by image, those of the image that has the most of them first."""
    groups: dict[tuple[str, str | None], list[Finding]] = {}
    for finding in found:
        if finding.file_name is not None:
            groups.setdefault((finding.split, finding.file_name), []).append(finding)
    return sorted(groups.values(), key=len, reverse=True)


def draw(report: Report, group: list[Finding]) -> Image.Image | None:
    """The image of the findings with its boxes as they stand in the file, shrunk; None where it cannot be read."""
    first = group[0]
    raw = report.splits[first.split]
    assert first.file_name is not None
    try:
        image = Image.fromarray(raw.store.image(first.file_name))
    except (ValueError, FileNotFoundError):
        return None
    scale = min(1.0, MAX_SIDE / max(image.size)) if max(image.size) > 64 else MAX_SIDE / 2 / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(image)
    bad = {finding.annotation_id for finding in group if finding.annotation_id is not None}
    index = raw.file_names.index(first.file_name)
    rows = np.flatnonzero((raw.images == index) | np.isin(raw.ids, list(bad)))
    for row in sorted(rows.tolist(), key=lambda row: raw.ids[row] in bad):
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


def figure(picture: Image.Image, group: list[Finding]) -> str:
    """The picture inside the page, with what is wrong in it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    ids = ", ".join(str(f.annotation_id) for f in group[:12] if f.annotation_id is not None)
    what = f"annotations {ids}" if ids else group[0].detail
    caption = f"{group[0].split}: {Path(group[0].file_name or '').name}; {what}"
    image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
