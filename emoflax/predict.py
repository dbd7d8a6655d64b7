"""A checkpoint and some recordings -> probabilities, with the same features as in training."""

import glob
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import logging

from emoflax import data, evaluate, experiment, train
from emoflax.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
TEXT_SUFFIXES = (".txt",)  # one utterance per file, for a model of words alone


def find_inputs(patterns: Sequence[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """Files named by paths, folders (searched to the bottom) and glob patterns, sorted.

    Raises:
      UserError: a pattern that leads to no file.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes]
        elif path.is_file():
            files = [path]
        else:
            files = [pathlib.Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        if not files:
            raise UserError(f"--inputs={pattern}: no {'/'.join(suffixes)} file there; name a file, a folder or a glob")
        found |= dict.fromkeys(files)
    return list(found)


def features_of(trained: evaluate.Trained, path: pathlib.Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(log-mel [frames, mels], token ids [tokens]) of one file; None for a modality that the model does not use."""
    from precompute import audio, text

    config = trained.config
    logmel = None
    if config.model.audio:
        logmel, _, _ = audio.log_mel(str(path), 0.0, None, **config.audio.to_dict())
    if not config.model.text:
        return logmel, None
    if path.suffix.lower() in TEXT_SUFFIXES:
        words = path.read_text(encoding="utf-8")
    else:
        words = text.transcribe_file(str(path), config.text.to_dict(), config.data.cache_dir)
    tokens = text.tokenise(words, config.text.lowercase)
    return logmel, data.token_ids(tokens, trained.description["vocabulary"])


def predict(folder: pathlib.Path, patterns: Sequence[str], output: pathlib.Path | None) -> None:
    """Prints a table and writes one JSON line per file.

    Files that cannot be read are listed at the end and do not keep the others from being predicted.

    Raises:
      UserError: no checkpoint, no input, or files that cannot be read.
    """
    from precompute.stt import WeightsUnavailable

    trained = evaluate.restore(folder)
    if trained.description["notice"]:
        logging.warning("%s", trained.description["notice"])
    suffixes = AUDIO_SUFFIXES if trained.config.model.audio else AUDIO_SUFFIXES + TEXT_SUFFIXES
    paths, features, failures = find_inputs(patterns, suffixes), [], []
    readable = []
    for path in paths:
        try:
            features.append(features_of(trained, path))
            readable.append(path)
        except WeightsUnavailable:  # the next file would fail the same way
            raise
        except UserError as error:
            failures.append(str(error))
    if readable:
        _show(trained, readable, probabilities(trained, features), output)
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]))


def probabilities(trained: evaluate.Trained, features: list[tuple]) -> np.ndarray:
    """float64 [clips, classes]."""
    logmels, tokens = (None if column[0] is None else list(column) for column in zip(*features, strict=True))
    config = trained.config
    dataset = data.from_arrays(
        logmels,
        tokens,
        np.zeros(len(features), np.int32),
        max_frames=experiment.max_frames(config),
        max_tokens=config.text.max_tokens,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
    )
    return np.exp(train.score(trained.model, trained.state, dataset))


def _show(trained: evaluate.Trained, paths: list[pathlib.Path], p: np.ndarray, output: pathlib.Path | None) -> None:
    labels = trained.description["labels"]
    width = max(len(str(path)) for path in paths)
    print(f"{'file':{width}}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in labels))
    for path, row in zip(paths, p, strict=True):
        print(f"{path!s:{width}}  {labels[int(row.argmax())]:10}  " + "  ".join(f"{value:9.3f}" for value in row))
    lines = [
        json.dumps({
            "file": str(path),
            "emotion": labels[int(row.argmax())],
            "probabilities": {label: round(float(value), 6) for label, value in zip(labels, row, strict=True)},
            "trained_on": trained.description["corpus"],
        })
        for path, row in zip(paths, p, strict=True)
    ]
    if output is None:
        print("\n".join(lines))
        return
    output.write_text("\n".join(lines) + "\n")
    print(f"as JSON lines: {output}", file=sys.stderr)
