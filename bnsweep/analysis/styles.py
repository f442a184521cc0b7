"""How figures look: one colour, line and marker for each norm, the same in every figure.

Colours are of distinct lightness and safe for the common forms of colour blindness; lines and
markers differ too, so that figures can be read in grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.tables import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ArmStyle", "arm_styles", "drawing", "encode", "lr_axis", "lr_text", "new_figure"]

INK = "#1b1b1b"
QUIET = "#767676"
RULE = "#d8d8d8"

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)))
_NORMS: dict[str, tuple[str, int, str]] = {
    "none": ("#1b1b1b", 0, "o"),
    "batch": ("#0067b1", 0, "s"),
    "noisy_batch": ("#e08a00", 1, "^"),
    "noisy_none": ("#8a8a8a", 2, "v"),
    "l1": ("#00936b", 3, "D"),
    "l2": ("#55b0e6", 1, "P"),
    "linf": ("#c4411a", 2, "X"),
    "layer": ("#b5578f", 4, "p"),
    "group": ("#7a5c1e", 3, "h"),
    "instance": ("#5b3a9e", 1, "<"),
    "rms": ("#a7b300", 4, ">"),
}
_OTHERS = (("#c98bb9", 3, "d"), ("#4d6f7c", 1, "H"), ("#d1a23c", 2, "*"), ("#3c5a14", 4, "8"))
_MARKERS = "o^sDvPX<>ph"


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
        start = _MARKERS.find(marker)
        for index, arm in enumerate(own):
            share = 0.0 if len(own) == 1 else 0.55 * (1 - (index + 1) / len(own))
            mark = marker if index == 0 else _MARKERS[(start + index) % len(_MARKERS)]
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
        matplotlib.rcParams.update(settings)  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure, kind: str) -> bytes:
    """Return a figure as ``png`` or ``svg`` without dates or versions in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = BytesIO()
    if kind == "png":
        FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=170, metadata={"Software": None})
    else:
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def lr_text(value: float) -> str:
    """Write a learning rate for the text of a figure or page."""
    return number_text(float(value))


def lr_axis(axes: Axes, lrs: Sequence[float], label: bool = True) -> None:
    """Give ``axes`` a logarithmic axis with room beside the outermost learning rates."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    room = max(0.5 * lr_step(lrs), 0.06)
    axes.set_xlim(min(lrs) * 10**-room, max(lrs) * 10**room)
    decades = math.log10(max(lrs) / min(lrs))
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0) if decades < 3.5 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: lr_text(float(f"{value:.3g}"))))
    axes.xaxis.set_minor_locator(LogLocator(10, subs=tuple(float(n) for n in range(1, 10))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=2, width=0.5)
    if label:
        axes.set_xlabel("learning rate (log scale)")


def lr_step(lrs: Sequence[float]) -> float:
    """Return the smallest distance of two learning rates in powers of ten."""
    logs = sorted(math.log10(lr) for lr in set(lrs))
    return min((b - a for a, b in zip(logs, logs[1:], strict=False)), default=0.5)
