"""Differences between runs, speaker by speaker: clips of one speaker are not independent of each other.

    python main.py --mode=compare --runs=runs/cnn2-ravdess-emobox6-nested/one,runs/cnn3-ravdess-emobox6-nested/one

The interval of a difference comes from a paired bootstrap: every resample draws the same speakers for both runs. The p
value is that of Wilcoxon's signed-rank test over the speakers' UARs, corrected for the number of pairs (Holm 1979).
"""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.stats

from emoflax.errors import UserError
from emoflax.files import make_folder, naming, parse_json
from emoflax.reporting import charts, literature, metrics, page


@dataclasses.dataclass(frozen=True)
class Run:
    """Test predictions of a run.

    Attributes:
      clips: id -> (speaker, label).
      confusions: [seeds, speakers, true, predicted].
      pretrained: whether its training began with published weights.
    """

    name: str
    corpus: str
    protocol: str
    labels: tuple[str, ...]
    clips: dict[str, tuple[str, str]]
    confusions: np.ndarray
    pretrained: bool = False

    @property
    def uar(self) -> float:
        """Mean over seeds."""
        return float(metrics.scores(self.confusions.sum(1))["uar"].mean())

    @property
    def speakers(self) -> list[str]:
        """In the order of `speaker_uars`."""
        return sorted({speaker for speaker, _ in self.clips.values()})

    @property
    def speaker_uars(self) -> np.ndarray:
        """[speakers], mean over seeds."""
        return metrics.scores(self.confusions)["uar"].mean(0)


@dataclasses.dataclass(frozen=True)
class Difference:
    """UAR of run `a` less that of run `b`, as shares; `p` of Wilcoxon's test, `p_holm` corrected for all pairs."""

    a: str
    b: str
    uar: float
    low: float | None
    high: float | None
    speakers_better: int
    speakers_worse: int
    p: float
    p_holm: float


def read(folder: pathlib.Path) -> Run:
    """Raises UserError where the folder holds no finished run."""
    try:
        with (folder / "predictions.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        facts = parse_json((folder / "report.json").read_bytes())
        labels = tuple(facts["labels"])
        clips = {line["clip"]: (line["speaker"], line["label"]) for line in lines}
        if facts.get("clips", len(clips)) != len(clips):
            raise ValueError(f"predictions.csv has {len(clips)} of {facts['clips']} clips")
        per_seed = []
        for seed in sorted({line["seed"] for line in lines}):
            of_seed = [line for line in lines if line["seed"] == seed]
            if len(of_seed) != len(clips) or {line["clip"] for line in of_seed} != clips.keys():
                raise ValueError(f"predictions.csv has {len(of_seed)} lines of seed {seed} for {len(clips)} clips")
            label, predicted = (
                np.array([labels.index(line[column]) for line in of_seed]) for column in ("label", "predicted")
            )
            speaker = np.array([line["speaker"] for line in of_seed])
            per_seed.append(metrics.speaker_confusions(label, predicted, speaker, len(labels)))
        known = (str(folder), facts["corpus"], facts["protocol"], labels, clips)
        return Run(*known, np.stack(per_seed), facts.get("pretrained", False))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"{folder} holds no finished run ({str(error) or type(error).__name__}); --runs takes folders with "
            "predictions.csv and report.json: a run of --mode=train, or one/ and ensemble/ of --mode=crossval"
        ) from error


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises UserError unless all runs tested the same clips under the same protocol."""
    if len({run.name for run in runs}) != len(runs) or len(runs) < 2:
        raise UserError("--runs needs two or more different folders: --runs=A,B")
    first = runs[0]
    for run in runs[1:]:
        for what in ("corpus", "protocol", "labels"):
            if (here := getattr(run, what)) != (there := getattr(first, what)):
                raise UserError(f"{run.name} has {what} {here}, {first.name} has {there}: they cannot be compared")
        if run.clips != first.clips:
            different = sorted({clip for clip, _ in set(run.clips.items()) ^ set(first.clips.items())})
            raise UserError(
                f"{first.name} and {run.name} did not test the same clips: {len(different)} differ, the first is "
                f"{different[0]}; compare runs over the same folds of the same corpus"
            )


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Every pair, in the order of `runs`."""
    pairs = list(itertools.combinations(runs, 2))
    p = [wilcoxon(a.speaker_uars - b.speaker_uars) for a, b in pairs]
    return [_difference(a, b, *ps) for (a, b), *ps in zip(pairs, p, holm(p), strict=True)]


def _difference(a: Run, b: Run, p: float, p_holm: float) -> Difference:
    # `bootstrap` always starts from the same random seed, so both runs get the same speakers in every resample.
    resampled = [metrics.bootstrap(run.confusions) for run in (a, b)]
    low = high = None
    if resampled[0] is not None:
        uar_a, uar_b = (metrics.scores(matrices)["uar"].mean(-1) for matrices in resampled)
        low, high = map(float, metrics.intervals(uar_a - uar_b))
    gain = a.speaker_uars - b.speaker_uars
    return Difference(a.name, b.name, a.uar - b.uar, low, high, int((gain > 0).sum()), int((gain < 0).sum()), p, p_holm)


def wilcoxon(difference: np.ndarray) -> float:
    """Two-sided p value of paired differences; 1 where no pair differs."""
    return float(scipy.stats.wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the order given (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected.tolist()


def render(runs: Sequence[Run], pairs: Sequence[Difference]) -> str:
    """The comparison as Markdown."""
    first, several = runs[0], any(len(run.confusions) > 1 for run in runs)
    lines = [f"# {first.corpus}, {first.protocol}: {len(runs)} runs compared", ""]
    means = "; means over each run's seeds" if several else ""
    lines += [f"- {len(first.clips)} test clips of {first.confusions.shape[1]} speakers{means}"]
    lines += ["- intervals: speakers resampled, the same for both; p: Wilcoxon's signed-rank test over speakers", ""]
    lines += ["| run | weights | UAR | seeds |", "|---|---|---|---|"]
    for run in runs:
        seeds, weights = metrics.count_seeds(len(run.confusions)), "pretrained" if run.pretrained else "from scratch"
        lines.append(f"| {run.name} | {weights} | {100 * run.uar:.1f} % | {seeds} |")
    lines += ["", "| difference | UAR, points | 95 % interval | speakers better, worse | p | p (Holm) |"]
    lines += ["|---|---|---|---|---|---|"]
    for d in pairs:
        bounds = "none: one speaker" if d.low is None else f"{100 * d.low:+.1f} to {100 * d.high:+.1f}"
        lines.append(
            f"| {d.a} − {d.b} | {100 * d.uar:+.1f} | {bounds} | {d.speakers_better}, {d.speakers_worse} | {d.p:.3g} | "
            f"{d.p_holm:.3g} |"
        )
    return "\n".join(lines) + "\n"


def write(workdir: pathlib.Path, runs: Sequence[Run], pairs: Sequence[Difference]) -> str:
    """Writes compare.md and compare.json into `workdir`, and returns the former's text."""
    text = render(runs, pairs)
    facts = {"corpus": runs[0].corpus, "protocol": runs[0].protocol, "uar": {run.name: run.uar for run in runs}}
    make_folder(workdir)
    with naming(workdir / "compare.md"):
        (workdir / "compare.md").write_text(text)
    content = facts | {"differences": [dataclasses.asdict(d) for d in pairs]}
    with naming(workdir / "compare.json"):
        (workdir / "compare.json").write_text(json.dumps(content, indent=2) + "\n")
    return text


def write_page(workdir: pathlib.Path, runs: Sequence[Run], pairs: Sequence[Difference]) -> pathlib.Path:
    """Writes compare.html: the same tables, with each speaker's difference."""
    named = {run.name: run for run in runs}
    gains = [named[d.a].speaker_uars - named[d.b].speaker_uars for d in pairs]
    drawn = [
        page.svg(charts.paired([name or "unknown" for name in runs[0].speakers], gain, d.uar, d.low, d.high))
        for d, gain in zip(pairs, gains, strict=True)
    ]
    content = {
        "title": f"{runs[0].corpus}, {runs[0].protocol}: {len(runs)} runs compared",
        "runs": runs,
        "short": _short_names([run.name for run in runs]),
        "differences": list(zip(pairs, drawn, strict=True)),
        "published": literature.beside(runs[0].corpus, runs[0].protocol),
    }
    return page.render("compare.html", content, workdir / "compare.html")


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of folders without the parts that all begin with."""
    parts = [pathlib.PurePath(name).parts for name in names]
    shared = len(os.path.commonprefix([one[:-1] for one in parts]))
    return {name: "/".join(one[shared:]) for name, one in zip(names, parts, strict=True)}
