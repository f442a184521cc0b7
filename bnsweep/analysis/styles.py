"""How figures look: one colour, line and marker for each norm, the same in every figure.

Colours are of distinct lightness and safe for the common forms of colour blindness; lines and
markers differ too, so that figures can be read in grey.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "ArmStyle",
    "arm_styles",
    "drawing",
    "encode",
    "level_line",
    "log_y",
    "lr_axis",
    "lr_step",
    "new_figure",
    "row_wise",
]

INK = "#1b1b1b"
QUIET = "#767676"
RULE = "#d8d8d8"

DPI = 170
MOST_TICKS = 9

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)))
_NORMS: dict[str, tuple[str, int, str]] = {
    "none": ("#1b1b1b", 0, "o"),
    "batch": ("#0067b1", 0, "s"),
    "noisy_batch": ("#e08a00", 1, "^"),
    "noisy_none": ("#8a8a8a", 2, "v"),
    "l1": ("#1fa67e", 3, "D"),
    "l2": ("#55b0e6", 1, "P"),
    "linf": ("#c4411a", 2, "X"),
    "layer": ("#b5578f", 4, "p"),
    "group": ("#7a5c1e", 3, "h"),
    "instance": ("#5b3a9e", 1, "<"),
    "rms": ("#a7b300", 4, ">"),
}
_OTHERS = (("#c98bb9", 3, "d"), ("#4d6f7c", 1, "H"), ("#d1a23c", 2, "*"), ("#3c5a14", 4, "8"))
_MARKERS = "^v<>DPXph*8"


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn.

    Attributes:
        color: Hex colour.
        dash: Matplotlib line style.
        marker: Matplotlib marker.
    """

    color: str
    dash: Any
    marker: str


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return the style of every arm: that of its norm, lighter and varied for its further arms.

    Args:
        arms: Names of arms in the plan's order; the first word is the norm.
    """
    norms = list(dict.fromkeys(arm.split(" ")[0] for arm in arms))
    others = [norm for norm in norms if norm not in _NORMS]
    styles = {}
    for norm in norms:
        own = [arm for arm in arms if arm.split(" ")[0] == norm]
        base = _NORMS.get(norm) or _OTHERS[others.index(norm) % len(_OTHERS)]
        color, dash, marker = base
        taken = {_NORMS[one][2] for one in norms if one in _NORMS}
        spare = [mark for mark in _MARKERS if mark not in taken]
        for index, arm in enumerate(own):
            share = 0.0 if len(own) == 1 else 0.55 * (1 - (index + 1) / len(own))
            mark = marker if index == 0 or not spare else spare[(index - 1) % len(spare)]
            line = _DASHES[(dash + index) % len(_DASHES)]
            styles[arm] = ArmStyle(_lighter(color, share), line, mark)
    return styles


def _lighter(color: str, share: float) -> str:
    """Mix a colour with white."""
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in parts)


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Set Matplotlib's defaults for the time of drawing, reproducible to the byte.

    Args:
        salt: Seeds the ids inside SVG files; the same salt and figure give the same bytes.
    """
    import matplotlib

    settings: dict[str, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": QUIET,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.labelsize": 9,
        "axes.linewidth": 0.7,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "figure.dpi": 100,
        "figure.facecolor": "white",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "grid.color": RULE,
        "grid.linewidth": 0.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.handlelength": 3.2,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "mathtext.default": "regular",
        "path.simplify": True,
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": salt,
        "text.color": INK,
        "xtick.color": QUIET,
        "xtick.labelcolor": INK,
        "xtick.labelsize": 8.5,
        "ytick.color": QUIET,
        "ytick.labelcolor": INK,
        "ytick.labelsize": 8.5,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure) -> tuple[bytes, bytes, bytes]:
    """Return a figure as PNG, SVG and PDF, without dates or versions in them.

    The layout, which costs as much as drawing, is computed once for all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    png, svg, pdf = BytesIO(), BytesIO(), BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasSVG(figure).print_svg(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    FigureCanvasPdf(figure).print_pdf(pdf, metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
    return png.getvalue(), _named_by_content(svg.getvalue()), pdf.getvalue()


def _named_by_content(svg: bytes) -> bytes:
    """Name the clip paths of an SVG after what they print.

    Matplotlib names them after every bit of their place, and the last bits of the layout's solver depend on
    where objects lie in memory, so that the same figure would not have the same bytes.
    """
    for name, content in re.findall(rb'<clipPath id="(\w+)">(.*?)</clipPath>', svg, re.DOTALL):
        svg = svg.replace(name, b"p" + hashlib.sha256(content).hexdigest()[:16].encode())
    return svg


def lr_axis(axes: Axes, lrs: Sequence[float], label: bool = True) -> None:
    """Give ``axes`` a logarithmic axis with room beside the outermost learning rates.

    Ticks are the learning rates themselves, unless there are many.
    """
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    room = max(0.5 * lr_step(lrs), 0.06)
    axes.set_xlim(min(lrs) * 10**-room, max(lrs) * 10**room)
    if len(set(lrs)) <= MOST_TICKS:
        axes.set_xticks(sorted(set(lrs)), [tick_text(lr) for lr in sorted(set(lrs))])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        _log_ticks(axes.xaxis, min(lrs), max(lrs))
    if label:
        axes.set_xlabel("learning rate (log scale)")


def level_line(axes: Axes, value: float, text: str, left: bool = False) -> None:
    """Mark a level worth knowing, with its name above one of its ends.

    Args:
        axes: Where.
        value: The level.
        text: Its name.
        left: Whether the name stands at the left end.
    """
    axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    axes.annotate(
        text,
        (0 if left else 1, value),
        xycoords=("axes fraction", "data"),
        xytext=(3 if left else -3, 3),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        fontsize=7.5,
        color=QUIET,
    )


def log_y(axes: Axes) -> None:
    """Label a logarithmic vertical axis with plain numbers where they are short; call it last."""
    low, high = axes.get_ylim()
    if low > 0:
        _log_ticks(axes.yaxis, low, high)


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.set_minor_locator(NullLocator())


def tick_text(value: float) -> str:
    """Write a tick of a logarithmic axis.

    Example:
        >>> tick_text(0.030000000000000002), tick_text(1000), tick_text(1e-6)
        ('0.03', '1000', '$10^{-6}$')
    """
    if not 0 < value < math.inf:
        return ""
    if 1e-3 <= value < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digits = round(value / 10.0**exponent)
    factor = "" if digits == 1 else rf"{digits}\times"
    return f"${factor}10^{{{exponent}}}$"


def lr_step(lrs: Sequence[float]) -> float:
    """Return the smallest distance of two learning rates in powers of ten."""
    logs = sorted(math.log10(lr) for lr in set(lrs))
    return min((b - a for a, b in pairwise(logs)), default=0.5)


def row_wise(count: int, columns: int) -> tuple[list[int], int]:
    """Return the order, and the columns, in which a legend of ``count`` entries reads row by row.

    Matplotlib fills column after column; the columns are as few as the rows allow.

    Example:
        >>> row_wise(5, 4)  # rows 0 1 2 / 3 4
        ([0, 3, 1, 4, 2], 3)
    """
    rows = max(1, math.ceil(count / columns))
    columns = max(1, math.ceil(count / rows))
    order = [row * columns + column for column in range(columns) for row in range(rows)]
    return [index for index in order if index < count], columns
