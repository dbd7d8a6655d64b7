"""A checkpoint and some recordings -> probabilities, with the same features as in training."""

import dataclasses
import glob
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
from emoflax.experiment.model import frontend_of
from emoflax.inference import explain as explanation
from emoflax.inference import notices
from emoflax.reporting import calibration
from emoflax.training import scoring

if TYPE_CHECKING:
    from emoflax.features.recording import Recording

TEXT_SUFFIXES = (".txt",)  # one utterance per file, for a model of words


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
      conditions: how it was recorded (`channels.CONDITIONS`); empty without sound.
    """

    path: pathlib.Path
    logmel: np.ndarray | list[np.ndarray]
    words: list[str]
    conditions: dict[str, float] = dataclasses.field(default_factory=dict)


def sound_of(config: ConfigDict, path: pathlib.Path) -> np.ndarray | list[np.ndarray]:
    """What `features_of` makes of a file; no frames for a model of words and for a text file."""
    return features_of(config, recording_of(config, path))


def recording_of(config: ConfigDict, path: pathlib.Path) -> "Recording | None":
    """A file as the model's features want it; None for a model of words and for a text file."""
    from emoflax.features import recording

    if not (config.model.audio or config.model.functionals) or path.suffix.lower() in TEXT_SUFFIXES:
        return None
    return recording.read(str(path), **{name: config.audio[name] for name in recording.FIELDS})


def utterance_of(config: ConfigDict, samples: np.ndarray, rate_hz: int) -> Utterance:
    """Decoded float32 [samples] as `read_input` gives a recording, for a model of sound."""
    from emoflax.features import recording

    one = recording.of_samples(samples, rate_hz, **{name: config.audio[name] for name in recording.FIELDS})
    return Utterance(pathlib.Path(), features_of(config, one), [], one.conditions)


def features_of(config: ConfigDict, recording: "Recording | None") -> np.ndarray | list[np.ndarray]:
    """Log-mel [frames, mels], of no frames without a recording; for closed-form models one per speed, or functionals
    [speeds, functionals]."""
    if recording is None:
        return np.zeros((0, channels(config.audio)), np.float32)
    from emoflax.features import functionals
    from emoflax.features.log_mel import in_16_bits, of_wave

    audio = {name: value for name, value in config.audio.items() if name not in ("trim_db", "level")}
    if config.model.functionals in models.FRAME_LEVEL_MODELS:
        return [of_wave(recording.wave, speed=speed, **audio) for speed in config.functionals.speeds]
    if config.model.functionals:
        return functionals.of_wave(recording.wave, audio["sample_rate_hz"], **config.functionals.to_dict())
    if frontend := frontend_of(config):
        return frontend.alone(*in_16_bits(recording.wave))
    return of_wave(recording.wave, **audio)


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
    _warn_of_missing(config, utterances, {path: str(error) for path, error in wordless.items()})
    return utterances, failures


def read_input(config: ConfigDict, path: pathlib.Path, wordless: dict[pathlib.Path, UserError]) -> Utterance:
    """One file; for a model of sound and words one of the two is enough.

    Args:
      wordless: recordings without words so far, and why; this one is added if it has none.

    Raises:
      UserError: neither sound nor words can be read.
    """
    recording = recording_of(config, path)
    logmel = features_of(config, recording)
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
    return Utterance(path, logmel, words, recording.conditions if recording else {})


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


def _warn_of_missing(config: ConfigDict, utterances: list[Utterance], wordless: dict[pathlib.Path, str]) -> None:
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
        _show(trained, utterances, p, output)
        if explain:
            pictures = explanation.draw(
                trained, utterances, dataset_of(trained, utterances), p, output.parent if output else pathlib.Path()
            )
            print("\n".join(f"attention drawn: {picture}" for picture in pictures))
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]))


def probabilities(trained: evaluate.Trained, utterances: Sequence[Utterance]) -> np.ndarray:
    """[utterances, classes], at the temperature that the checkpoint keeps."""
    if trained.config.model.functionals:
        rows = [row for utterance in utterances for row in utterance.logmel]
        place = np.repeat(np.arange(len(utterances)), [len(utterance.logmel) for utterance in utterances])
        rows = rows if trained.config.model.functionals in models.FRAME_LEVEL_MODELS else np.stack(rows)
        log_p = closed_form.log_probabilities(trained.module(), rows, place)
    else:
        log_p = scoring.score(trained.model, trained.state, dataset_of(trained, utterances))
    return np.exp(calibration.tempered(log_p, calibration.temperature_of(trained.description)))


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


def _show(trained: evaluate.Trained, utterances: list[Utterance], p: np.ndarray, output: pathlib.Path | None) -> None:
    paths = [utterance.path for utterance in utterances]
    unusual = [notices.unusual(trained.description, utterance.conditions) for utterance in utterances]
    for path, found in zip(paths, unusual, strict=True):
        if found:
            logging.warning("%s is unlike the training clips: %s", path, "; ".join(found))
    labels = trained.description["labels"]
    least = calibration.threshold(trained.description.get("calibration"), trained.config.evaluate.unsure)
    width = max(len(str(path)) for path in paths)
    print(f"{'file':{width}}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in labels))
    for path, row in zip(paths, p, strict=True):
        shown = labels[int(row.argmax())] if row.max() >= least else "unsure"
        print(f"{path!s:{width}}  {shown:10}  " + "  ".join(f"{value:9.3f}" for value in row))
    lines = [
        json.dumps(
            {
                "file": str(path),
                "emotion": labels[int(row.argmax())],
                "probabilities": {label: round(float(value), 6) for label, value in zip(labels, row, strict=True)},
                "trained_on": trained.description["corpus"],
            }
            | ({"unsure": bool(row.max() < least)} if least else {})
            | ({"notices": found} if found else {})
        )
        for path, row, found in zip(paths, p, unusual, strict=True)
    ]
    if output is None:
        print("\n".join(lines))
        return
    output.write_text("\n".join(lines) + "\n")
    print(f"as JSON lines: {output}", file=sys.stderr)
