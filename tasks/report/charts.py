"""Charts as SVG for a page that opens offline, light or dark; each says in words what it shows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
MAX_POINTS = 240
"""Of a line; more are thinned out."""
NUM_COLORS = 8


def line_chart(
    lines: Mapping[str, tuple[Any, Any]],
    *,
    title: str,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> str:
    """Lines by name, each of x and y; points that are no numbers are left out. "" of nothing."""
    known = {name: _finite(*points) for name, points in lines.items()}
    known = {name: points for name, points in known.items() if len(points[0])}
    if not known:
        return ""
    xs = np.concatenate([points[0] for points in known.values()])
    ys = np.concatenate([points[1] for points in known.values()])
    low_x, high_x = x_range or _around(xs)
    low_y, high_y = y_range or _around(ys)

    def place(px: np.ndarray, py: np.ndarray) -> str:
        left = _LEFT + (px - low_x) / (high_x - low_x) * (WIDTH - _LEFT - _RIGHT)
        top = HEIGHT - _BOTTOM - (py - low_y) / (high_y - low_y) * (HEIGHT - _TOP - _BOTTOM)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(left, top, strict=True))

    parts = _axes(low_x, high_x, low_y, high_y, x, y)
    if diagonal:
        both = np.array([max(low_x, low_y), min(high_x, high_y)])
        parts.append(f'<polyline class="guide" points="{place(both, both)}"/>')
    for i, (px, py) in enumerate(known.values()):
        some = np.unique(np.linspace(0, len(px) - 1, MAX_POINTS).astype(int))
        if len(px) == 1:
            left, top = place(px, py).split(",")
            parts.append(f'<circle class="c{i % NUM_COLORS} dot" cx="{left}" cy="{top}" r="3"/>')
        else:
            parts.append(f'<polyline class="c{i % NUM_COLORS} line" points="{place(px[some], py[some])}"/>')
    last = "; ".join(f"{name} ends at {points[1][-1]:.4g}" for name, points in known.items())
    names = [*known] if len(known) > 1 else []
    return _figure(parts, title, f"{title}: {last}", names)


def bar_chart(bars: Mapping[str, float], *, title: str, unit: str = "") -> str:
    """A bar for each name, from 0, side by side downwards; the number behind it. "" of nothing."""
    known = {name: value for name, value in bars.items() if np.isfinite(value)}
    if not known:
        return ""
    most = max(1e-12, max(abs(value) for value in known.values()))
    row, label = 24, 150
    height = row * len(known) + 8
    parts = []
    for i, (name, value) in enumerate(known.items()):
        top = 4 + i * row
        width = abs(value) / most * (WIDTH - label - 80)
        short = name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(
            f'<text x="{label - 8}" y="{top + 16}" text-anchor="end">{escape(short)}</text>'
            f'<rect class="c0 bar" x="{label}" y="{top + 3}" width="{max(width, 0.5):.1f}" height="{row - 8}"/>'
            f'<text x="{label + width + 6:.1f}" y="{top + 16}">{value:.3f}{escape(unit)}</text>'
        )
    words = "; ".join(f"{name} {value:.3f}" for name, value in known.items())
    return _figure(parts, title, f"{title}: {words}", [], height)


def _figure(parts: Sequence[str], title: str, words: str, names: Sequence[str], height: int = HEIGHT) -> str:
    legend = "".join(
        f'<span><i class="c{i % NUM_COLORS}"></i>{escape(name)}</span>' for i, name in enumerate(names)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(words, quote=True)}">'
        f"{''.join(parts)}</svg>" + (f'<p class="legend">{legend}</p>' if legend else "") + "</figure>"
    )


def _axes(low_x: float, high_x: float, low_y: float, high_y: float, x: str, y: str) -> list[str]:
    parts = []
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in np.linspace(low_x, high_x, 5):
        at = _LEFT + (value - low_x) / (high_x - low_x) * (right - _LEFT)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{value:.4g}</text>')
    for value in np.linspace(low_y, high_y, 5):
        at = bottom - (value - low_y) / (high_y - low_y) * (bottom - _TOP)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    middle = (bottom + _TOP) / 2
    parts.append(
        f'<text transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">{escape(y)}</text>'
    )
    return parts


def _finite(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]


def _around(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low - 0.5, high + 0.5
    return min(low, 0.0) if low > 0 and low < 0.5 * high else low, high
