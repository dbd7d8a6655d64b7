"""A picture of a recording's rows over time: the probability of each emotion, and where there is no speech."""

import pathlib
from collections.abc import Sequence

import numpy as np

from emoflax.inference.model import Prediction
from emoflax.reporting.pictures import pyplot


def draw(path: pathlib.Path, title: str, labels: Sequence[str], rows: Sequence[Prediction]) -> None:
    """Writes one picture.

    Args:
      title: a line above it.
      rows: of one recording, by time. What windows overlap is drawn at their middles.
    """
    plt = pyplot()
    middle_s = np.array([(row.start_s + row.end_s) / 2 for row in rows])
    p = np.array([[row.probabilities.get(label, np.nan) for label in labels] for row in rows])  # nan: a gap
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(10, 4.6), height_ratios=(6, 1), layout="constrained", squeeze=True
    )
    for number, label in enumerate(labels):
        above.plot(middle_s, p[:, number], marker="o", markersize=3, color=f"C{number}", label=label)
    edges_s = np.concatenate([[rows[0].start_s], (middle_s[1:] + middle_s[:-1]) / 2, [rows[-1].end_s]])
    for row, begin_s, end_s in zip(rows, edges_s[:-1], edges_s[1:], strict=True):
        color = f"C{labels.index(row.label)}" if row.label else "0.85"
        below.axvspan(begin_s, end_s, color=color, linewidth=0)
        if not row.label:
            above.axvspan(begin_s, end_s, color="0.93", linewidth=0)
    above.set(ylim=(0, 1), ylabel="probability", title=title)
    below.set(xlabel="seconds", yticks=[], ylabel="likeliest", xlim=(edges_s[0], edges_s[-1]))
    above.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="grey: no speech", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
