"""Scores -> report.md, report.json and two pictures, all of which name the corpus and the protocol.

A deterministic model is reported once: with one seed there is neither a mean of seeds nor a spread to show.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from emoflax.files import naming
from emoflax.reporting import calibration
from emoflax.reporting.metrics import count_seeds
from emoflax.reporting.pictures import pyplot
from emoflax.training import monitor

NAMES = {"uar": "UAR", "accuracy": "accuracy", "macro_f1": "macro-F1", "weighted_f1": "weighted F1"}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What has to stand beside every number.

    Attributes:
      seeds: of the models that were scored; one alone for a deterministic model, and those of its members for an
        ensemble, which is scored once.
      commit: of the code that ran, see `ledger.commit`.
    """

    config: str
    corpus: str
    notice: str
    protocol: str
    protocol_note: str
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    clips: int
    speakers: int
    parameters: int
    seconds: float
    command: str
    commit: str
    machine: str
    date: str
    reachable: str = ""  # of made-up recordings: the best score that they allow
    text_check: str = ""
    word_errors: tuple[int, int] | None = None  # in the transcripts of the test clips; words of their reference text
    pretrained: bool = False  # whether an encoder began with published weights
    ensemble: int = 1  # models whose probabilities are averaged
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.config} on {self.corpus}, {self.protocol}"


def write(
    folder: pathlib.Path, facts: Facts, labels: tuple[str, ...], confusions: np.ndarray, summary: dict[str, dict],
    calibrated: dict[str, Any],
) -> str:  # fmt: skip
    """Writes report.json, report.md, confusion.png and reliability.png; returns the report's text.

    Args:
      confusions: [seeds, speakers, classes, classes].
      calibrated: the result of `calibration.summarise`.
    """
    total = confusions.sum((0, 1))
    everything = {**dataclasses.asdict(facts), "labels": labels, "confusion": total.tolist(), "metrics": summary}
    everything["calibration"] = calibrated
    with naming(folder / "report.json"):
        (folder / "report.json").write_text(json.dumps(everything, indent=2) + "\n")
    facts = dataclasses.replace(facts, notes=(*facts.notes, calibration.sentence(calibrated)))
    text = render(facts, labels, total, summary)
    with naming(folder / "report.md"):
        (folder / "report.md").write_text(text)
    draw_confusion(folder / "confusion.png", facts, labels, total, summary["confusion"])
    calibration.draw(folder / "reliability.png", facts.title, calibrated)
    return text


def render(facts: Facts, labels: tuple[str, ...], total: np.ndarray, summary: dict[str, dict]) -> str:
    """The report as Markdown."""
    folds = ", ".join(map(str, facts.folds))
    lines = [f"# {facts.title}", ""]
    lines += [f"**{facts.notice}**", ""] if facts.notice else []
    lines += [
        f"- {facts.protocol_note}",
        f"- folds {folds}; {_seeds(facts)}; {facts.clips} test clips of {facts.speakers or 'unknown'} speakers; "
        f"{facts.parameters:,} parameters; chance {100 / len(labels):.1f} % UAR",
        f"- `{facts.command}`",
        f"- {facts.seconds:.0f} s on {facts.machine}; {facts.date}; commit {facts.commit or 'unknown'}",
    ]
    lines += ["- training began with pretrained weights"] if facts.pretrained else []
    lines += [f"- an ensemble of up to {facts.ensemble} models"] if facts.ensemble > 1 else []
    lines += [f"- {note}" for note in remarks(facts)]
    lines += ["", *_scores(summary)]
    lines += ["", "| recall of | % | 95 % interval | predicted as |", "|---|---|---|---|"]
    recall = summary["recall"]
    for i, label in enumerate(labels):
        share = "no clips" if recall["mean"][i] is None else f"{100 * recall['mean'][i]:.1f}"
        counts = ", ".join(f"{labels[j]} {total[i, j]}" for j in np.argsort(-total[i], kind="stable") if total[i, j])
        lines.append(f"| {label} | {share} | {_bounds(recall['low'][i], recall['high'][i])} | {counts} |")
    return "\n".join(lines) + "\n"


def remarks(facts: Facts) -> list[str]:
    """What qualifies the scores, in sentences."""
    every = (facts.reachable, facts.text_check, _word_error_rate(facts.word_errors), *facts.notes)
    return [note for note in every if note]


def _scores(summary: dict[str, dict]) -> list[str]:
    """The table of scores; its columns about seeds are left out where there is one."""
    several = len(summary["uar"]["seeds"]) > 1
    mean, each = (" mean of seeds |", " each seed |") if several else (" score |", "")
    lines = [f"| |{mean} 95 % interval (speakers resampled) |{each}", "|---|---|---|" + ("---|" if several else "")]
    for key, name in NAMES.items():
        values = summary[key]
        line = f"| {name} | {100 * values['mean']:.1f} % | {_bounds(values['low'], values['high'])} |"
        lines.append(line + (f" {', '.join(f'{100 * v:.1f}' for v in values['seeds'])} |" if several else ""))
    return lines


def _seeds(facts: Facts) -> str:
    return f"{count_seeds(len(facts.seeds))} ({', '.join(map(str, facts.seeds))})"


def _word_error_rate(word_errors: tuple[int, int] | None) -> str:
    if word_errors is None:
        return ""
    wrong, words = word_errors
    return (
        f"the test clips' transcripts have a word error rate of {100 * wrong / words:.1f} % ({wrong} errors, {words} "
        "words of reference text)"
    )


def _bounds(low: float | None, high: float | None) -> str:
    return "none: no two speakers" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"


def draw_confusion(
    path: pathlib.Path, facts: Facts, labels: tuple[str, ...], total: np.ndarray, shares: dict[str, list]
) -> None:
    """Row-normalised confusion matrix, with counts and 95 % intervals."""
    plt = pyplot()
    share = total / np.maximum(total.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(1.6 + 0.75 * len(labels), 1.2 + 0.7 * len(labels)), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(labels)):
        for j in range(len(labels)):
            colour = "white" if share[i, j] > 0.5 else "black"
            low, high = shares["low"][i][j], shares["high"][i][j]
            text = f"{100 * share[i, j]:.0f} %\n{total[i, j]}"
            text += "" if low is None or not total[i, j] else f"\n[{100 * low:.0f}, {100 * high:.0f}]"
            axes.text(j, i, text, ha="center", va="center", color=colour, size=7)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{facts.title}\nfolds {', '.join(map(str, facts.folds))}; {count_seeds(len(facts.seeds))}", size=10)
    with naming(path):
        figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(path: pathlib.Path, title: str, folders: list[pathlib.Path]) -> None:
    """Training loss, dev loss and dev UAR against epochs, one line per model.

    Models without epochs, which are fitted in closed form, have no line; where there are only such, no file is written.
    """
    curves = {folder: lines for folder in folders if (lines := monitor.read(folder))}
    if not curves:
        return
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for colour, (folder, lines) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": f"C{colour % 10}"}
        left.plot([x["epoch"] for x in lines], [x.get("loss") for x in lines], label=folder.name, **style)
        scored = [x for x in lines if x.get("dev_uar") is not None]
        left.plot([x["epoch"] for x in scored], [x.get("dev_loss") for x in scored], linestyle="--", **style)
        if scored:
            right.plot([x["epoch"] for x in scored], [100 * x["dev_uar"] for x in scored], marker=".", **style)
    for axes in (left, right):
        axes.xaxis.set_major_locator(plt.matplotlib.ticker.MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    left.set(xlabel="epoch", ylabel="cross-entropy", title="training (solid) and dev (dashed) loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="dev UAR, %", title="dev UAR", ylim=(0, 100))
    if not right.lines:
        right.text(0.5, 0.5, "no dev clips: the last epoch is taken", ha="center", transform=right.transAxes)
    if len(curves) <= 10:
        left.legend(fontsize=7)
    else:
        left.text(0.98, 0.98, f"{len(curves)} models", ha="right", va="top", transform=left.transAxes)
    figure.suptitle(title)
    with naming(path):
        figure.savefig(path, dpi=120)
    plt.close(figure)
