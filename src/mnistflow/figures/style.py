"""What all figures have in common: Matplotlib's settings, fonts, names of classes, the file.

No pyplot: it would look for a window system, remember every figure and triple the time of the import.
"""

import unicodedata
from collections import Counter
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
    """The classes' names as a figure can show them: on one line, cut after `width` columns, each another.

    Names that differ only behind the cut are cut in the middle instead. Where that does not tell them apart either, and
    where a character is in no font here, a name becomes `class 3`, with its label.
    """
    known = frozenset[int]().union(*(characters for _, characters in _fonts()))
    labels = [f"class {label}" for label in range(len(classes))]
    lines = [" ".join(name.split()) for name in classes]
    lines = [line if known >= set(map(ord, line)) else label for line, label in zip(lines, labels, strict=True)]
    names = [shorten(line, width) for line in lines]
    for others in ([shorten(line, width, end=width // 2) for line in lines], labels):
        count = Counter(names)
        names = [other if count[name] > 1 else name for name, other in zip(names, others, strict=True)]
    return names


def shorten(name: str, width: int, end: int = 0) -> str:
    """The name, or its beginning, an ellipsis and its last `end` columns; East Asian letters are two columns wide."""
    columns = np.cumsum([2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name])
    if not name or columns[-1] <= width:
        return name
    last = name[int((columns <= columns[-1] - end).sum()) :]
    return name[: int((columns < width - end).sum())].rstrip() + "…" + last.lstrip()
