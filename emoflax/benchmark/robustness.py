"""What a trained model makes of the same test clips after other equipment, rooms, codecs and noise.

    python -m emoflax.benchmark.robustness --checkpoint=runs/cnn2-ravdess-emobox6/seed0-fold1 --dir=data/ravdess

Every test clip of the model's fold goes through each condition of `distortions.py` in memory, and through the functions
that --mode=predict uses; given a run's folder, each of its models is given the clips of its own fold. UAR, share of
changed predictions and expected calibration error of each condition: a table (robustness.md), a picture and a JSON file
in the workdir. About 45 conditions; of 240 clips, minutes to an hour on two cores, by what the features cost; --clips
takes so many of them, evenly spread.

--part=dev takes the dev clips in their place, so that a recipe can be chosen without a look at the test clips.
"""

import argparse
import functools
import pathlib
import textwrap
import time
import zlib
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from emoflax import corpora
from emoflax.benchmark import script
from emoflax.benchmark.distortions import CONDITIONS, Clip
from emoflax.data import speakernorm
from emoflax.data.clip import Corpus
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import evaluate
from emoflax.experiment.members import checkpoints_of, folds
from emoflax.experiment.model import takes_words
from emoflax.inference import model, recordings
from emoflax.inference.member import Member
from emoflax.reporting import calibration, metrics
from emoflax.reporting.pictures import pyplot

CLEAN = "as recorded"


def measure(
    trained: evaluate.Trained, corpus: Corpus, split: Split, clips: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Condition -> probabilities [clips, classes], that of the clips as they are first."""
    others = [functools.partial(_decoded, corpus, i) for i in split.train]
    read = [_decoded(corpus, i) for i in clips]
    ensemble = model.Model([Member("", 1.0, trained)], {}, "")
    found: dict[str, np.ndarray] = {}
    for name in tqdm([CLEAN, *names], unit="condition"):
        opened = []
        for position, (samples, rate_hz) in zip(clips, read, strict=True):
            random = np.random.default_rng([zlib.crc32(name.encode()), int(position)])
            if name != CLEAN:
                samples, rate_hz = CONDITIONS[name](Clip(samples, rate_hz, others), random)
            opened.append(recordings.Recording(corpus.clips[position].path, samples, rate_hz))
        found[name] = np.exp(ensemble.log_probabilities(opened)[0])
    return found


def numbers(p: np.ndarray, clean: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Scores of probabilities [clips, classes] beside those of the clips as they are."""
    matrix = metrics.confusion(label, p.argmax(1), p.shape[1])
    calibrated = calibration.scores(np.log(np.maximum(p, 1e-12)), label)
    return {
        "uar": float(metrics.scores(matrix)["uar"]),
        "changed": float((p.argmax(1) != clean.argmax(1)).mean()),
        "ece": calibrated["ece"],
        "confidence": calibrated["confidence"],
    }


def _decoded(corpus: Corpus, position: int) -> tuple[np.ndarray, int]:
    from emoflax.features.decode import decode

    clip = corpus.clips[position]
    return decode(clip.path, clip.start_s, clip.end_s)


def split_of(trained: evaluate.Trained, folder: str) -> tuple[Corpus, Split]:
    """The corpus and the fold that the model was trained on.

    Args:
      folder: where the recordings are; '': where they were.
    """
    config, description = trained.config, trained.description
    if takes_words(config) or speakernorm.suffix_of(description["protocol"]):
        raise UserError("robustness is measured for models of single sounds: without words, and without speakernorm")
    if config.data.corpus == "synthetic":
        folder = ""
    corpus = corpora.load(config.data.corpus, folder or config.data.dir, config.data.cache_dir)
    if list(corpus.labels) != list(description["labels"]):
        raise UserError(f"the model knows {description['labels']}, and corpus {corpus.name} has {list(corpus.labels)}")
    config.split.fold = str(description["fold"])
    (split,) = folds(config, corpus, config.split.dev_share)
    return corpus, split


def clips_of(split: Split, part: str, most: int) -> np.ndarray:
    """Positions of the part's clips; `most` of them, evenly spread, unless it is 0."""
    clips = getattr(split, part)
    if not len(clips):
        raise UserError(f"fold {split.fold} has no {part} clips: the model was trained with config.split.dev_share=0")
    count = min(most or len(clips), len(clips))
    return clips[np.linspace(0, len(clips) - 1, count).round().astype(int)]


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| condition | UAR | lost | changed predictions | ECE | mean confidence |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        lost = found[CLEAN]["uar"] - one["uar"]
        lines.append(
            f"| {name} | {100 * one['uar']:.1f} | {100 * lost:.1f} | {100 * one['changed']:.1f} % | {one['ece']:.3f} | "
            f"{one['confidence']:.2f} |"
        )
    return "\n".join(lines)


def draw(path: pathlib.Path, title: str, found: dict[str, dict[str, float]], classes: int) -> None:
    plt, places = pyplot(), np.arange(len(found))
    figure, axes = plt.subplots(figsize=(7, 1 + 0.2 * len(found)), layout="constrained")
    axes.barh(places, [100 * one["uar"] for one in found.values()], color="C0", label="UAR, %")
    axes.plot([100 * one["changed"] for one in found.values()], places, "k.", label="changed predictions, %")
    axes.axvline(100 * found[CLEAN]["uar"], color="C0", linewidth=1, linestyle="--")
    axes.axvline(100 / classes, color="0.5", linewidth=1, linestyle=":", label="chance")
    axes.set_yticks(places, list(found), size=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100))
    axes.set_title(textwrap.fill(title, 64), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)  # bars reach everywhere
    figure.savefig(path, dpi=120)
    plt.close(figure)


def of_all_models(options: argparse.Namespace, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray], str]:
    """Labels and `measure`d probabilities of all clips, and in words whose they are."""
    labels, made, numbers_of_folds = [], [], []
    for folder in checkpoints_of(options.checkpoint):
        trained = evaluate.restore(folder)
        corpus, split = split_of(trained, options.dir)
        clips = clips_of(split, options.part, options.clips)
        labels.append(corpus.label_numbers(clips))
        made.append(measure(trained, corpus, split, clips, names))
        numbers_of_folds.append(split.fold)
    label = np.concatenate(labels)
    which = ", ".join(map(str, sorted(set(numbers_of_folds))))
    title = f"{trained.config.name} on {corpus.name}, {split.protocol} fold {which}, {len(label)} {options.part} clips"
    return label, {name: np.concatenate([own[name] for own in made]) for name in made[0]}, title


def main(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    names = [name for name in CONDITIONS if not options.only or any(part in name for part in options.only.split(","))]
    if not names:
        raise UserError(f"--only={options.only} names none of: {', '.join(CONDITIONS)}")
    label, made, title = of_all_models(options, names)
    found = {name: numbers(p, made[CLEAN], label) for name, p in made.items()}
    draw(options.workdir / "robustness.png", title, found, made[CLEAN].shape[1])
    text = f"{title}\n\n{table(found)}"
    (options.workdir / "robustness.md").write_text(f"# Robustness of {text}\n")
    seconds = round(time.perf_counter() - begin, 1)
    facts = {
        "checkpoint": str(options.checkpoint),
        "title": title,
        "clips": len(label),
        "part": options.part,
        "seconds": seconds,
    }
    script.write(options.workdir / "robustness.json", facts | {"conditions": found}, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="a run, or its model RUN/seed0-fold1")
    parser.add_argument("--dir", default="", help="the corpus's folder, if it is not where the model was trained")
    parser.add_argument("--clips", type=int, default=0, help="so many of a fold's clips, evenly spread; 0: all")
    parser.add_argument("--part", default="test", choices=("test", "dev"), help="dev: to choose a recipe by")
    parser.add_argument("--only", default="", help="conditions whose names contain one of these, a,b,...; '': all")
    script.run(main, parser)
