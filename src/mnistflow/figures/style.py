"""What all figures have in common: Matplotlib's settings, fonts, names of classes, the file.

No pyplot: it would look for a window system, remember every figure and triple the time of the import.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font

DPI = 120
# Matplotlib's own font comes first and has Latin, Greek, Cyrillic and Arabic letters; for class names in others, the
# first of these that is installed.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK KR",
    "Noto Sans CJK JP",
    "NanumGothic",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
)


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, in inches. Every figure begins here.

    A user's matplotlibrc must neither change a picture's bytes nor break it (`text.usetex` needs LaTeX), so Matplotlib
    is set back to its defaults. They are read while texts and ticks are made, until the figure is saved: a context
    around this call alone would not do.
    """
    matplotlib.rcdefaults()
    matplotlib.rcParams["font.family"] = [font for font, _ in _fonts()]
    matplotlib.rcParams["text.parse_math"] = False  # a class may be called $5 or $10
    return Figure(figsize=(width, height), layout=layout)


def save(path: Path, figure: Figure) -> None:
    """Write a new figure as PNG; the same data give the same bytes.

    Not twice for one figure: a layout begins where the last one ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})  # Matplotlib's version


@cache
def _fonts() -> list[tuple[str, frozenset[int]]]:
    """Those of FONTS that are installed, each with the characters that it has."""
    installed = {font.name for font in fontManager.ttflist}
    return [(name, frozenset(get_font(findfont(name)).get_charmap())) for name in FONTS if name in installed]


def drawable(classes: Sequence[str], width: int) -> list[str]:
    """The classes' names as a figure can show them: on one line, cut after `width` columns.

    A name with a character that no font here has becomes `class 3`, with its label, instead of a row of empty boxes.
    """
    known = frozenset[int]().union(*(characters for _, characters in _fonts()))
    lines = (" ".join(name.split()) for name in classes)
    names = (name if known >= set(map(ord, name)) else f"class {label}" for label, name in enumerate(lines))
    return [shorten(name, width) for name in names]


def shorten(name: str, width: int) -> str:
    """The name, or its beginning and an ellipsis; letters of East Asian scripts are two columns wide."""
    columns = np.cumsum([2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name])
    return name if not name or columns[-1] <= width else name[: int((columns < width).sum())].rstrip() + "…"
