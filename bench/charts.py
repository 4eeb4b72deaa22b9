"""Plots of the page: docs/benchmarks/<name>.svg, the same file for the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygal
from pygal.style import Style

from bench.samples import ROOT

FOLDER = ROOT / "docs/benchmarks"
_STYLE = Style(
    background="white",
    plot_background="white",
    foreground="#333",
    foreground_strong="#111",
    foreground_subtle="#888",
    colors=("#3b6ea8", "#d9843b", "#5a9367", "#a05195"),
    font_family="sans-serif",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=13,
    value_font_size=13,
    value_label_font_size=13,
    title_font_size=16,
    opacity="1",
    guide_stroke_color="#ddd",
    major_guide_stroke_color="#ddd",
)

# A value is centred on the end of its bar; this moves it off.
_BESIDE = "\u2003" * 4


def bars(name: str, title: str, series: Mapping[str, Mapping[str, float]], formatter: str = "{:.1f}") -> Path:
    """Horizontal bars; `series`: name in the legend -> label -> value, every series with the same labels."""
    labels = list(next(iter(series.values())))

    def written(value: float) -> str:
        return _BESIDE + formatter.format(value)

    chart = pygal.HorizontalBar(
        style=_STYLE,
        title=title,
        js=[],
        no_prefix=True,
        print_values=True,
        print_values_position="top",
        value_formatter="{:g}".format,
        max_scale=6,
        legend_at_bottom=True,
        show_legend=len(series) > 1,
        width=820,
        height=130 + 26 * len(labels) * len(series),
        spacing=8,
        margin=12,
        range=(0, max(max(values.values()) for values in series.values()) * 1.12),
    )
    chart.uuid = name  # a random one by default
    # Bars are drawn from below.
    chart.x_labels = list(reversed(labels))
    for legend, values in series.items():
        chart.add(legend, [{"value": values[label], "formatter": written} for label in reversed(labels)])
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.svg"
    path.write_bytes(chart.render())
    return path
