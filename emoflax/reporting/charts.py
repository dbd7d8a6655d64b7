"""Charts of report.html as inline SVG: their text takes the page's colour, so that they are read in light and dark.

Shape letters: N clips, C classes, D numbers of an embedding.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoflax.reporting.pictures import pyplot

_TEXT = "#010203"  # drawn in this colour, which becomes that of the page's text
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "emoflax", "text.color": _TEXT, "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.facecolor": "none",
    "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False, "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
}  # fmt: skip
_MOST_DRAWN_AS_SHAPES = 300  # points; more are pixels within the SVG, which are smaller
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#9467bd", "#17a2b8", "#b07c4f", "#d45d9e", "#8f9b2e", "#7f7f7f",
)  # fmt: skip
LINES = ("-", "--", ":")  # beside the colours, which alone do not reach everybody
_GREY, _LOSS = "#8a8a8a", "#c4622d"
_ABOVE: dict[str, Any] = {
    "loc": "upper left", "ncols": 2, "bbox_to_anchor": (0, 1.16), "fontsize": 9, "borderaxespad": 0,
}  # fmt: skip


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _svg(draw, described: str, **layout: Any) -> str:
    """What `draw(figure, axes)` draws, as an <svg> for a page. `described`: what a screen reader says of it."""
    plt = pyplot()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(layout="constrained", **layout)
        draw(figure, axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", dpi=110, metadata=nothing)
        width_px = figure.get_figwidth() * 96
        plt.close(figure)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Groups are numbered anew in each chart, and a page's ids are unique; nothing refers to theirs.
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text).replace(_TEXT, "currentColor")
    label = html.escape(described, quote=True)
    head = f'<svg role="img" aria-label="{label}" style="width:100%;max-width:{width_px:.0f}px;height:auto" '
    view_box = re.search(r'viewBox="[^"]*"', text)
    return f"{head}{view_box[0] if view_box else ''}>{text[text.index('>') + 1 :]}"


def per_speaker(names: Sequence[str], uars: np.ndarray, mean: float, chance: float) -> str:
    """Each speaker's UAR, shares, the lowest first."""
    order = np.argsort(uars, kind="stable")

    def draw(figure, axes) -> None:
        axes.bar(np.arange(len(order)), 100 * uars[order], color=COLOURS[0], width=0.7)
        _level(axes, 100 * mean, "all", COLOURS[1])
        _level(axes, 100 * chance, "chance", _GREY)
        _name_bars(axes, [names[i] for i in order])
        axes.set(ylim=(0, 100), ylabel="UAR, %")

    lowest, highest = names[order[0]], names[order[-1]]
    described = (
        f"Bars: UAR of {len(names)} speakers, from {100 * uars.min():.0f} % ({lowest}) to {100 * uars.max():.0f} % "
        f"({highest})"
    )
    width = float(np.clip(2 + 0.32 * len(names), 4.5, 12))
    return _svg(draw, described, figsize=(width, 3.2))


def _name_bars(axes, names: Sequence[str]) -> None:
    axes.set_xticks(np.arange(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set(xlim=(-0.7, len(names) - 0.3))


def _level(axes, value: float, name: str, colour: str) -> None:
    axes.axhline(value, color=colour, linewidth=1.2, linestyle="--", label=f"{name}: {value:.1f} %")
    axes.legend(**_ABOVE)


def reliability(summary: Mapping[str, Any]) -> str:
    """How often predictions of each confidence are right; `summary`: of `calibration.summarise`."""
    filled = {name: np.array(values) for name, values in summary["bins"].items()}
    there, count = filled["clips"] > 0, len(filled["clips"])

    def draw(figure, axes) -> None:
        centres, share = (np.arange(count) + 0.5) / count, filled["clips"] / filled["clips"].sum()
        axes.bar(centres, share, 0.9 / count, color=_GREY, alpha=0.35, label="share of the clips")
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="if confidence were true")
        points = (filled["confidence"][there], filled["accuracy"][there])
        axes.plot(*points, "o-", color=COLOURS[0], label="share that is right")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share", aspect="equal")
        axes.legend(loc="upper left", fontsize=8)

    described = f"Reliability diagram: expected calibration error {summary['ece']:.3f}"
    return _svg(draw, described, figsize=(4.4, 4.4))


def areas_under_roc(p_NxC: np.ndarray, label_N: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray, float]]:
    """Class -> (false positive rates, true positive rates, area) of that class against all others.

    Without classes that no clip, or every clip, has. The area is the share of pairs of a clip of the class and another
    one in which the first gets the higher probability, ties counting half (Hanley & McNeil 1982).
    """
    curves = {}
    for c in range(p_NxC.shape[1]):
        of_class = label_N == c
        if not of_class.any() or of_class.all():
            continue
        order = np.argsort(-p_NxC[:, c], kind="stable")
        last = np.r_[np.flatnonzero(np.diff(p_NxC[order, c])), len(order) - 1]  # of clips with equal probabilities
        hits, misses = np.cumsum(of_class[order])[last], np.cumsum(~of_class[order])[last]
        x, y = np.r_[0, misses / misses[-1]], np.r_[0, hits / hits[-1]]
        curves[c] = (x, y, float(np.trapezoid(y, x)))
    return curves


def roc(labels: Sequence[str], curves: Mapping[int, tuple[np.ndarray, np.ndarray, float]]) -> str:
    """Of `areas_under_roc`."""

    def draw(figure, axes) -> None:
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--", label="chance 0.50")
        for c, (x, y, area) in curves.items():
            axes.plot(x, y, color=colour(c), linewidth=1.4, linestyle=LINES[c % 3], label=f"{labels[c]} {area:.2f}")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="area", fontsize=8, alignment="left")

    described = "ROC curves, areas: " + ", ".join(f"{labels[c]} {area:.2f}" for c, (_, _, area) in curves.items())
    return _svg(draw, described, figsize=(5.8, 4.2))


def curves(models: Mapping[str, Sequence[Mapping[str, Any]]], chosen: Mapping[str, int], chance: float) -> str:
    """Losses and dev UAR by epoch.

    Args:
      models: name -> lines of metrics.jsonl.
      chosen: name -> the epoch whose weights were scored.
    """

    def draw(figure, axes) -> None:
        left, right = axes
        for number, (name, lines) in enumerate(models.items()):
            style: dict[str, Any] = {"color": colour(number), "linewidth": 1.3}
            scored = [x for x in lines if x.get("dev_uar") is not None]
            left.plot([x["epoch"] for x in lines], [x.get("loss") for x in lines], label=name, **style)
            left.plot([x["epoch"] for x in scored], [x.get("dev_loss") for x in scored], linestyle="--", **style)
            if scored:
                right.plot([x["epoch"] for x in scored], [100 * x["dev_uar"] for x in scored], **style)
            for x in scored:
                if x["epoch"] == chosen.get(name):
                    right.plot(x["epoch"], 100 * x["dev_uar"], "o", color=style["color"], markersize=8)
        if right.lines:
            right.axhline(
                100 * chance, color=_GREY, linewidth=1.2, linestyle="--", label=f"chance: {100 * chance:.1f} %"
            )
            right.plot([], [], "o", color=_TEXT, markersize=7, label="chosen epoch")
            right.legend(fontsize=8)
        else:
            right.text(0.5, 0.5, "no dev clips: the last epoch is taken", ha="center", transform=right.transAxes)
        left.set(xlabel="epoch", ylabel="cross-entropy", title="loss: training (solid), dev (dashed)", ylim=(0, None))
        right.set(xlabel="epoch", ylabel="dev UAR, %", title="dev UAR", ylim=(0, 100))
        for one in axes:
            one.xaxis.get_major_locator().set_params(integer=True)
        if len(models) <= 8:
            left.legend(fontsize=8)

    described = f"Learning curves of {len(models)} models: loss and dev UAR by epoch"
    return _svg(draw, described, ncols=2, figsize=(10, 3.6))


def principal_components(x_NxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[clips, 2] on the first two components, and the share of the variance that each explains.

    Columns have mean 0 and deviation 1, cut off at 5, so that no single one rules.
    """
    x_NxD = np.asarray(x_NxD, np.float64)
    deviation = x_NxD.std(0)
    z_NxD = (x_NxD - x_NxD.mean(0, keepdims=True))[:, deviation > 1e-9] / deviation[None, deviation > 1e-9]
    z_NxD = np.clip(z_NxD, -5, 5)
    z_NxD -= z_NxD.mean(0, keepdims=True)
    values, vectors = np.linalg.eigh(z_NxD @ z_NxD.T)  # clips are fewer than numbers
    top = np.maximum(values[[-1, -2]], 0)
    return vectors[:, [-1, -2]] * np.sqrt(top)[None], top / max(values.sum(), 1e-12)


def embedding_map(x_NxD: np.ndarray, colourings: Mapping[str, Sequence[str]]) -> str:
    """The first two principal components, once for each colouring.

    Args:
      colourings: what it is by ('emotion') -> the name of each clip's group; groups in the order of appearance.
    """
    place_Nx2, explained = principal_components(x_NxD)

    def draw(figure, axes) -> None:
        for by, one in zip(colourings, axes[0], strict=True):
            groups = list(dict.fromkeys(colourings[by]))
            for number, group in enumerate(groups):
                own = np.array([name == group for name in colourings[by]])
                marker = "osD^vP"[number % 6]  # colours alone do not reach everybody
                one.scatter(*place_Nx2[own].T, s=14, color=colour(number), marker=marker, alpha=0.75, linewidth=0,
                            label=group, rasterized=len(place_Nx2) > _MOST_DRAWN_AS_SHAPES)  # fmt: skip
            one.set(title=f"by {by}", xlabel=f"component 1 ({100 * explained[0]:.0f} % of the variance)",
                    ylabel=f"component 2 ({100 * explained[1]:.0f} %)", xticks=[], yticks=[])  # fmt: skip
            if len(groups) <= 24:
                one.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize=8, columnspacing=0.8,
                           handletextpad=0.2)  # fmt: skip

    described = f"Map of {len(place_Nx2)} clips by two principal components, coloured by {', '.join(colourings)}"
    return _svg(draw, described, ncols=len(colourings), squeeze=False, figsize=(5 * len(colourings), 5))


def paired(names: Sequence[str], gain: np.ndarray, mean: float, low: float | None, high: float | None) -> str:
    """Each speaker's difference in UAR, shares, the lowest first, and the interval of the whole."""
    order = np.argsort(gain, kind="stable")

    def draw(figure, axes) -> None:
        points = 100 * gain[order]
        axes.bar(np.arange(len(order)), points, color=[COLOURS[0] if p > 0 else _LOSS for p in points], width=0.7)
        axes.axhline(0, color=_TEXT, linewidth=0.8)
        axes.axhline(100 * mean, color=_TEXT, linestyle="--", linewidth=1.2, label=f"all: {100 * mean:+.1f}")
        if low is not None and high is not None:
            axes.axhspan(100 * low, 100 * high, color=_GREY, alpha=0.25, linewidth=0, label="95 % interval")
        _name_bars(axes, [names[i] for i in order])
        axes.set(ylabel="difference, points")
        axes.legend(**_ABOVE)

    described = f"Bars: difference in UAR of {len(names)} speakers, mean {100 * mean:+.1f} points"
    return _svg(draw, described, figsize=(float(np.clip(2 + 0.32 * len(names), 4.5, 12)), 3.2))
