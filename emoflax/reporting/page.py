"""report.html: one file that holds all it shows; what a run does not have is left out.

The scores are those of report.json; what stands beside them comes from every test clip's probabilities, from the
models' logs, and from the recordings.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emoflax.data.clip import Clip
from emoflax.files import naming, write_whole
from emoflax.reporting import calibration, charts, literature, metrics, sounds
from emoflax.reporting.report import NAMES, Facts, remarks
from emoflax.training import monitor

MISTAKES = 6  # of each kind


@dataclasses.dataclass(frozen=True)
class Tested:
    """Every prediction of a test clip: N of them, a clip once for each seed.

    Attributes:
      label: int [predictions], place of the true emotion in `labels`.
      log_p: [predictions, classes].
    """

    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    seed: np.ndarray
    fold: np.ndarray
    label: np.ndarray
    log_p: np.ndarray

    @property
    def first_seed(self) -> np.ndarray:
        """Places of the first seed's predictions: every clip once."""
        return np.flatnonzero(self.seed == self.seed.min())


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What one model's last layer sees of some clips, [clips, width]; `of`: which model and which clips, in words."""

    clips: tuple[Clip, ...]
    vectors: np.ndarray
    of: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One candidate in one fold. `score`: of its inner validation clips, a share; `weight`: in the ensemble, or 0."""

    score: float | None
    chosen: bool
    weight: float


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What stands in a page beside the scores, as far as there is any.

    Attributes:
      tested: the predictions that were scored.
      folders: of the models, whose logs have the learning curves; name -> folder.
      epochs: name of a model -> the epoch whose weights were scored.
      attention: clip id -> attention of each frame over the whole clip, relative to its mean, [frames].
      candidates: of a cross-validation, name -> one cell per fold.
      folds: of those cells.
      audio: whether the page has sounds to play.
      trim_db: of config.audio.
    """

    tested: Tested
    folders: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    epochs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    embedded: Embedded | None = None
    attention: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    candidates: Mapping[str, Sequence[Cell]] = dataclasses.field(default_factory=dict)
    folds: tuple[int, ...] = ()
    audio: bool = True
    trim_db: float = 0.0


def mistakes(tested: Tested) -> tuple[np.ndarray, np.ndarray]:
    """Places of the first seed's most confident mistakes; of others whose true emotion got the least probability."""
    places = tested.first_seed
    wrong = places[tested.log_p[places].argmax(1) != tested.label[places]]
    confident = wrong[np.argsort(-tested.log_p[wrong].max(1), kind="stable")][:MISTAKES]
    rest = wrong[~np.isin(wrong, confident)]
    return confident, rest[np.argsort(tested.log_p[rest, tested.label[rest]], kind="stable")][:MISTAKES]


def write(
    folder: pathlib.Path, facts: Facts, confusions: np.ndarray, summary: Mapping[str, Any], evidence: Evidence
) -> pathlib.Path:
    """Writes report.html and returns its path.

    Args:
      confusions: [seeds, speakers, classes, classes].
      summary: of `metrics.summarise`.
    """
    tested = evidence.tested
    labels, chance = tested.labels, 1 / len(tested.labels)
    content: dict[str, Any] = {
        "title": facts.title,
        "facts": facts,
        "remarks": remarks(facts),
        "names": NAMES,
        "summary": summary,
        "chance": chance,
        "published": literature.beside(facts.corpus, facts.protocol),
        "confusion": _confusion(labels, confusions.sum((0, 1)), summary),
        "labels": labels,
        "speakers": _speakers(tested, confusions, summary["uar"]["mean"], chance),
        "charts": _charts(tested, evidence, chance),
        "calibration": _calibration(tested),
        "embedded": evidence.embedded,
        "candidates": evidence.candidates,
        "folds": evidence.folds,
        "mistakes": [[_example(place, evidence) for place in places] for places in mistakes(tested)],
        "wrong": int((tested.log_p.argmax(1) != tested.label)[tested.first_seed].sum()),
        "audio": evidence.audio,
        "attention": bool(evidence.attention),
        "most_s": sounds.MOST_S,
    }
    return render("run.html", content, folder / "report.html")


def render(template: str, content: Mapping[str, Any], path: pathlib.Path) -> pathlib.Path:
    """Fills a template of emoflax/reporting/html and writes the page."""
    import jinja2  # wanted only here, at the end of a run

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("emoflax.reporting", "html"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "bounds": bounds, "marked": marked}
    text = environment.get_template(template).render(content)
    with naming(path), write_whole(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # names of files may hold bytes that are no text
    return path


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def bounds(values: Mapping[str, Any]) -> str:
    """The interval of {'low', 'high'}, in %."""
    if values["low"] is None:
        return "no interval: one speaker"
    return f"{percent(values['low'])} to {percent(values['high'])}"


def marked(text: str):
    """A note of report.md: **bold** and `code` as HTML."""
    import markupsafe  # jinja2's

    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(markupsafe.escape(text)))
    return markupsafe.Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", safe))


def svg(text: str):
    """A chart, which the template is not to escape."""
    import markupsafe

    return markupsafe.Markup(text)


def _confusion(labels: Sequence[str], total: np.ndarray, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per true emotion, with its cells."""
    cells, recall = summary["confusion"], summary["recall"]
    return [
        {
            "label": label,
            "clips": int(total[i].sum()),
            "recall": {"mean": recall["mean"][i], "low": recall["low"][i], "high": recall["high"][i]},
            "taken_for": [labels[j] for j in np.argsort(-total[i], kind="stable") if j != i and total[i, j]][:3],
            "cells": [
                {"share": cells["mean"][i][j], "count": int(total[i, j]), "low": cells["low"][i][j],
                 "high": cells["high"][i][j], "label": labels[j], "right": i == j}
                for j in range(len(labels))
            ],
        }
        for i, label in enumerate(labels)
    ]  # fmt: skip


def _speakers(tested: Tested, confusions: np.ndarray, mean: float, chance: float) -> dict[str, Any] | None:
    """Scores of each speaker, and their chart; None of a single one."""
    names = sorted({clip.speaker for clip in tested.clips})
    if len(names) < 2:
        return None
    scores = {name: values.mean(0) for name, values in metrics.scores(confusions).items()}
    clips = confusions[0].sum((1, 2))
    rows: list[dict[str, Any]] = [
        {"name": name or "unknown", "clips": int(clips[i])} | {key: float(values[i]) for key, values in scores.items()}
        for i, name in enumerate(names)
    ]
    chart = svg(charts.per_speaker([name or "unknown" for name in names], scores["uar"], mean, chance))
    return {"rows": rows, "chart": chart if len(names) <= 60 else ""}


def _calibration(tested: Tested) -> dict[str, Any]:
    """Scores of the probabilities, means over seeds."""
    own = [tested.seed == seed for seed in np.unique(tested.seed)]
    return calibration.summarise([tested.log_p[rows] for rows in own], [tested.label[rows] for rows in own])


def _charts(tested: Tested, evidence: Evidence, chance: float) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(("roc", "curves", "map"), "")
    made["reliability"] = svg(charts.reliability(_calibration(tested)))
    if areas := charts.areas_under_roc(np.exp(tested.log_p), tested.label):
        made["roc"] = svg(charts.roc(tested.labels, areas))
    if logs := {name: lines for name, folder in evidence.folders.items() if (lines := monitor.read(folder))}:
        made["curves"] = svg(charts.curves(logs, evidence.epochs, chance))
        made["models"] = len(logs)
        made["dev"] = any(line.get("dev_uar") is not None for lines in logs.values() for line in lines)
    if evidence.embedded is not None and len(evidence.embedded.clips) > 2:
        clips = evidence.embedded.clips
        order = sorted(range(len(clips)), key=lambda i: (tested.labels.index(clips[i].label), clips[i].speaker))
        groups = {"emotion": [clips[i].label for i in order], "speaker": [clips[i].speaker or "unknown" for i in order],
                  "corpus": [clips[i].corpus for i in order]}  # fmt: skip
        told_apart = {by: names for by, names in groups.items() if by == "emotion" or len(set(names)) > 1}
        made["map"] = svg(charts.embedding_map(evidence.embedded.vectors[order], told_apart))
    return made


def _example(place: int, evidence: Evidence) -> dict[str, Any]:
    """A prediction with its sound, if the recording is still there."""
    tested, clip = evidence.tested, evidence.tested.clips[place]
    p = np.exp(tested.log_p[place])
    example = {
        "clip": clip.id, "speaker": clip.speaker or "unknown", "text": clip.text, "fold": int(tested.fold[place]),
        "label": tested.labels[tested.label[place]], "p_label": float(p[tested.label[place]]),
        "predicted": tested.labels[int(p.argmax())], "p_predicted": float(p.max()), "sound": None, "attention": "",
    }  # fmt: skip
    sound = sounds.of_clip(clip, trim_db=evidence.trim_db, playable=evidence.audio)
    curve = evidence.attention.get(clip.id)
    return example | {"sound": sound, "attention": _polyline(curve, sound) if curve is not None and sound else ""}


def _polyline(curve: np.ndarray, sound: sounds.Sound) -> str:
    """Points of a line over a spectrogram of 100 x 100: attention of each frame, the largest one on top."""
    frames = max(1, round(len(curve) * min(1.0, sound.seconds / sound.whole_s)))
    shown = curve[:frames]
    x = 100 * (np.arange(frames) + 0.5) / frames
    return " ".join(f"{a:.1f},{98 - 94 * b:.1f}" for a, b in zip(x, shown / max(shown.max(), 1e-12), strict=True))
