"""A checkpoint and some recordings -> probabilities, with the same features as in training."""

import dataclasses
import glob
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import channels
from emoflax.data import dataset as data
from emoflax.data import speakernorm, splits
from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import UserError, WeightsUnavailable
from emoflax.experiment import closed_form, evaluate
from emoflax.experiment.features import max_frames
from emoflax.inference import explain as explanation
from emoflax.inference import recordings
from emoflax.training import scoring

TEXT_SUFFIXES = recordings.TEXT_SUFFIXES


def find_inputs(patterns: Sequence[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """Files named by paths, folders (with all folders in them) and glob patterns, each once, sorted within a folder.

    Raises:
      UserError: a pattern without a file.
    """
    paths: dict[pathlib.Path, None] = {}
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
        paths |= dict.fromkeys(files)
    return list(paths)


@dataclasses.dataclass(frozen=True)
class Utterance:
    """Features of one file.

    Attributes:
      logmel: of `sound_of`; empty without sound, or for a model of words alone.
      words: empty without words, or for a model of sound alone.
    """

    path: pathlib.Path
    logmel: np.ndarray | list[np.ndarray]
    words: list[str]


def sound_of(config: ConfigDict, path: pathlib.Path) -> np.ndarray | list[np.ndarray]:
    """What `recordings.sounds_of` makes of a file; no frames for a model of words and for a text file."""
    if not (config.model.audio or config.model.functionals) or path.suffix.lower() in TEXT_SUFFIXES:
        return np.zeros((0, channels(config.audio)), np.float32)
    return recordings.sounds_of(config, [recordings.read(path)])[0]


def words_of(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """Words of a text file, or of Whisper's transcript of a recording."""
    from emoflax.features import text

    if not config.model.text:
        return []
    cut = text.cutter(config.text.to_dict())
    if path.suffix.lower() not in TEXT_SUFFIXES:
        return cut(text.transcribe_file(str(path), config.text.to_dict(), config.data.cache_dir))
    try:
        return cut(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no UTF-8 text file: {error}") from error


def read_inputs(config: ConfigDict, paths: Sequence[pathlib.Path]) -> tuple[list[Utterance], list[str]]:
    """Every file that can be read, and why the others cannot."""
    utterances, failures, wordless = [], [], {}
    for path in paths:
        try:
            utterances.append(read_input(config, path, wordless))
        except WeightsUnavailable:  # every other file would fail in the same way
            raise
        except UserError as error:
            failures.append(str(error))
    warn_of_missing(config, utterances, {path: str(error) for path, error in wordless.items()})
    return utterances, failures


def read_input(
    config: ConfigDict, path: Any, wordless: dict[Any, UserError], sound_of: Callable = sound_of,
    words_of: Callable = words_of,
) -> Utterance:  # fmt: skip
    """One file, or what the two functions take; for a model of sound and words one of the two is enough.

    Args:
      wordless: recordings without words so far, and why; this one is added if it has none.

    Raises:
      UserError: neither sound nor words can be read.
    """
    logmel = sound_of(config, path)
    no_whisper = next((error for error in wordless.values() if isinstance(error, WeightsUnavailable)), None)
    try:
        if no_whisper and len(logmel):  # trying to load it again would take seconds and fail again
            raise no_whisper
        words = words_of(config, path)
        if config.model.audio and config.model.text and not words:
            raise UserError(f"{path} holds no words")
    except UserError as error:
        if not len(logmel):
            raise
        words, wordless[path] = [], error
    return Utterance(path, logmel, words)


def of_one_speaker(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The features normalised by their mean and deviation over all utterances, as under a protocol '...+speakernorm'.

    Raises:
      UserError: a single recording, whose statistics would not be the speaker's.
    """
    sounds = [utterance.logmel for utterance in utterances if len(utterance.logmel)]
    if len(sounds) < 2:
        raise UserError(
            f"the model was trained with {speakernorm.SUFFIX}: a recording is normalised by all recordings of its "
            "speaker; give more of that speaker's recordings to --inputs, or train without"
        )
    logging.warning(
        "the %d given recordings are normalised as one speaker's: predictions are right only if they are, and better "
        "the more there are, in many emotions", len(sounds),
    )  # fmt: skip
    level = speakernorm.level_of(sounds)
    return [dataclasses.replace(one, logmel=level(one.logmel) if len(one.logmel) else one.logmel) for one in utterances]


def warn_of_missing(config: ConfigDict, utterances: list[Utterance], wordless: dict[pathlib.Path, str]) -> None:
    """One warning for every reason why files are predicted from one modality of two."""
    untrained = {name: "" if share else ", for which the model was not trained (config.model.modality_dropout)"
                 for name, share in config.model.modality_dropout.items()}  # fmt: skip
    for reason in dict.fromkeys(wordless.values()):
        paths = [str(path) for path, why in wordless.items() if why == reason]
        logging.warning("predicted from the sound alone%s: %s: %s", untrained["text"], _few(paths), reason)
    if config.model.audio and (soundless := [str(x.path) for x in utterances if not len(x.logmel)]):
        logging.warning("predicted from the words alone%s: %s", untrained["audio"], _few(soundless))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def predict(folder: pathlib.Path, patterns: Sequence[str], output: pathlib.Path | None, *, explain: bool) -> None:
    """Prints a table and writes one JSON line per file; `explain` adds a picture of the model's attention.

    Files that cannot be read are listed at the end, after the others are predicted.

    Raises:
      UserError: no checkpoint, no input, files that cannot be read, or nothing to explain.
    """
    trained = evaluate.restore(folder)
    config = trained.config
    if explain:
        explanation.check(config)
    if trained.description["notice"]:
        logging.warning("%s", trained.description["notice"])
    suffixes = RECORDING_SUFFIXES + TEXT_SUFFIXES if config.model.text else RECORDING_SUFFIXES
    paths = find_inputs(patterns, suffixes)
    utterances, failures = read_inputs(config, paths)
    if utterances and splits.by_speaker(trained.description["protocol"]):
        utterances = of_one_speaker(utterances)
    if utterances:
        p = probabilities(trained, utterances)
        _show(trained, [utterance.path for utterance in utterances], p, output)
        if explain:
            pictures = explanation.draw(
                trained, utterances, dataset_of(trained, utterances), p, output.parent if output else pathlib.Path()
            )
            print("\n".join(f"attention drawn: {picture}" for picture in pictures))
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]))


def probabilities(trained: evaluate.Trained, utterances: Sequence[Utterance]) -> np.ndarray:
    """[utterances, classes]."""
    if trained.config.model.functionals:
        rows = [row for utterance in utterances for row in utterance.logmel]
        place = np.repeat(np.arange(len(utterances)), [len(utterance.logmel) for utterance in utterances])
        rows = rows if trained.config.model.functionals in models.FRAME_LEVEL_MODELS else np.stack(rows)
        return np.exp(closed_form.log_probabilities(trained.module(), rows, place))
    return np.exp(scoring.score(trained.model, trained.state, dataset_of(trained, utterances)))


def dataset_of(trained: evaluate.Trained, utterances: Sequence[Utterance]) -> data.Dataset:
    config, vocabulary = trained.config, trained.description["vocabulary"]
    return data.from_arrays(
        [x.logmel for x in utterances] if config.model.audio else None,
        [data.token_ids(x.words, vocabulary) for x in utterances] if config.model.text else None,
        np.zeros(len(utterances), np.int32),
        max_frames=max_frames(config),
        max_tokens=config.text.max_tokens,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
    )


def _show(trained: evaluate.Trained, paths: list[pathlib.Path], p: np.ndarray, output: pathlib.Path | None) -> None:
    labels = trained.description["labels"]
    width = max(len(str(path)) for path in paths)
    print(f"{'file':{width}}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in labels))
    for path, row in zip(paths, p, strict=True):
        print(f"{path!s:{width}}  {labels[int(row.argmax())]:10}  " + "  ".join(f"{value:9.3f}" for value in row))
    lines = [
        json.dumps(
            {
                "file": str(path),
                "emotion": labels[int(row.argmax())],
                "probabilities": {label: round(float(value), 6) for label, value in zip(labels, row, strict=True)},
                "trained_on": trained.description["corpus"],
            }
        )
        for path, row in zip(paths, p, strict=True)
    ]
    if output is None:
        print("\n".join(lines))
        return
    output.write_text("\n".join(lines) + "\n")
    print(f"as JSON lines: {output}", file=sys.stderr)
