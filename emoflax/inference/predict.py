"""A checkpoint and some recordings -> probabilities, with the same features as in training."""

import dataclasses
import glob
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax import models
from emoflax.audio.channels import channels
from emoflax.corpora import scan
from emoflax.data import dataset as data
from emoflax.data import speakernorm
from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import SomeFailed, UserError, WeightsUnavailable
from emoflax.experiment import closed_form, evaluate
from emoflax.experiment.features import max_frames
from emoflax.experiment.model import frontend_of
from emoflax.features import containers, untrusted
from emoflax.inference import explain as explanation
from emoflax.inference import notices, records
from emoflax.reporting import calibration
from emoflax.training import scoring

if TYPE_CHECKING:
    from emoflax.features.recording import Recording

TEXT_SUFFIXES = (".txt",)  # one utterance per file, for a model of words
# Files between two writes to disk: an interruption costs the work on as many. Bucket widths of all parts are rounded up
# to the same multiple of frames, so that parts share compiled programs.
PART_FILES, PART_WIDTH_MULTIPLE = 64, 64


def find_inputs(patterns: Sequence[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """Files named by paths, folders (with all folders in them) and glob patterns, each once, sorted within a folder.

    Folders are searched as in training (`scan.search`); one that cannot be listed is returned in the place of its
    files, so that it is reported like a file that cannot be read.

    Raises:
      UserError: a pattern without a file.
    """
    paths: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern)
        named = [path] if os.path.lexists(path) else map(pathlib.Path, sorted(glob.glob(pattern, recursive=True)))
        files = [file for one in named for file in (_inside(one, suffixes) if one.is_dir() else [one])]
        if not files:
            raise UserError(f"--inputs={pattern}: no {'/'.join(suffixes)} file there; name a file, a folder or a glob")
        paths |= dict.fromkeys(files)
    return list(paths)


def _inside(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    result = scan.search(folder, suffixes)
    if sentence := result.sentence(folder):
        logging.info("%s", sentence)
    return [pathlib.Path(name) for name in (*result.files, *result.unreadable)]


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
    """Log-mel [frames, mels], of no frames without a recording; for closed-form models one per speed, or functionals or
    states [speeds, numbers]."""
    if recording is None:
        return np.zeros((0, channels(config.audio)), np.float32)
    from emoflax.features import functionals
    from emoflax.features.log_mel import in_16_bits, of_wave

    audio = {name: value for name, value in config.audio.items() if name not in ("trim_db", "level")}
    if config.model.functionals == "states":
        encoder = closed_form.encoder_of(config)
        sounds = [of_wave(recording.wave, speed=speed, **audio | encoder.audio) for speed in config.functionals.speeds]
        return closed_form.chosen_states(config, encoder(sounds))
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
    containers.check_regular(str(path))
    cut = text.cutter(config.text.to_dict())
    if path.suffix.lower() not in TEXT_SUFFIXES:
        return cut(text.transcribe_file(str(path), config.text.to_dict(), config.data.cache_dir))
    try:
        return cut(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no UTF-8 text file: {error}") from error


def read_inputs(
    config: ConfigDict, paths: Sequence[pathlib.Path], wordless: dict[pathlib.Path, UserError] | None = None
) -> tuple[list[Utterance], list[str]]:
    """Every file that can be read, and why the others cannot, both in the order of the paths.

    Args:
      wordless: of `read_input`, for a caller that reads in several parts and warns by itself; None: warned here.
    """
    utterances, failures = [], []
    missing = {} if wordless is None else wordless
    for path in paths:
        try:
            utterances.append(read_input(config, path, missing))
        except WeightsUnavailable:  # every other file would fail in the same way
            raise
        except UserError as error:
            failures.append(str(error))
    if wordless is None:
        warn_of_missing(config, utterances, missing)
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
    """The features normalised by their mean and deviation over all utterances, as under '+speakernorm', '+corpusnorm'.

    Raises:
      UserError: a single recording, whose statistics would not be the speaker's.
    """
    sounds = [utterance.logmel for utterance in utterances if len(utterance.logmel)]
    if len(sounds) < 2:
        raise UserError(
            f"the model was trained with {' or '.join(speakernorm.SUFFIXES)}: a recording is normalised by all "
            "recordings of its speaker or place; give more of that speaker's recordings to --inputs, or train without"
        )
    logging.warning(
        "the %d given recordings are normalised as one speaker's: predictions are right only if they are, and better "
        "the more there are, in many emotions", len(sounds),
    )  # fmt: skip
    level = speakernorm.level_of(sounds)
    return [dataclasses.replace(one, logmel=level(one.logmel) if len(one.logmel) else one.logmel) for one in utterances]


def warn_of_missing(config: ConfigDict, utterances: Sequence[Utterance], errors: dict[pathlib.Path, UserError]) -> None:
    """One warning for every reason why files are predicted from one modality of two; errors: of `read_input`."""
    wordless = {path: str(error) for path, error in errors.items()}
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

    Both are written as it goes, see `records.py`. Files that cannot be read are among the records with the reason, and
    named at the end.

    Raises:
      UserError: no checkpoint, no input, no place for the output, nothing that can be read, or nothing to explain.
      SomeFailed: some files could not be read.
    """
    if output:
        records.check_place(output)
    untrusted.start()  # while the model is restored
    trained = evaluate.restore(folder)
    config = trained.config
    if explain:
        explanation.check(config)
    if trained.description["notice"]:
        logging.warning("%s", trained.description["notice"])
    suffixes = RECORDING_SUFFIXES + TEXT_SUFFIXES if config.model.text else RECORDING_SUFFIXES
    paths = find_inputs(patterns, suffixes)
    if output:
        records.refuse_inputs(output, paths)
    by_speaker = bool(speakernorm.suffix_of(trained.description["protocol"]))
    with records.Records(output, trained.description, () if by_speaker else paths) as kept:
        pictures = _predict_all(
            trained, paths, kept, (output.parent if output else pathlib.Path()) if explain else None
        )
    if output is None:
        print("\n".join(json.dumps(record) for record in kept.lines))
    print("\n".join(f"attention drawn: {picture}" for picture in pictures), end="\n" if pictures else "")
    if output:
        print(f"as JSON lines: {output}", file=sys.stderr)
    if failures := kept.failures:
        more = f"; and {len(failures) - 5} more" + (f", see {output}" if output else "") if len(failures) > 5 else ""
        kind = UserError if len(failures) == len(paths) else SomeFailed
        raise kind(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]) + more)


def _predict_all(
    trained: evaluate.Trained, paths: Sequence[pathlib.Path], kept: records.Records, drawn: pathlib.Path | None
) -> list[pathlib.Path]:
    """Predicts what has no record yet, part by part; returns pictures, drawn into the folder `drawn` if it is named."""
    by_speaker = bool(speakernorm.suffix_of(trained.description["protocol"]))
    todo = list(paths) if by_speaker else [path for path in paths if str(path) not in kept.earlier]
    size = len(todo) if by_speaker else PART_FILES  # statistics of a speaker are those of all recordings
    width_multiple = data.WIDTH_MULTIPLE if len(todo) <= size else PART_WIDTH_MULTIPLE
    wordless: dict[pathlib.Path, UserError] = {}
    said, pictures = [], []
    _show_head(trained, paths)
    for part in (todo[begin : begin + size] for begin in range(0, len(todo), max(1, size))):
        utterances, failures = read_inputs(trained.config, part, wordless)
        read = {utterance.path for utterance in utterances}
        reasons = iter(failures)
        made = {path: {"file": str(path), "error": next(reasons)} for path in part if path not in read}
        if utterances:
            utterances = of_one_speaker(utterances) if by_speaker else utterances
            p = probabilities(trained, utterances, width_multiple)
            made |= {x.path: record(trained, x, row) for x, row in zip(utterances, p, strict=True)}
            _show(trained, paths, utterances, p)
            said += [dataclasses.replace(x, logmel=x.logmel[:1]) for x in utterances]
            if drawn is not None:
                pictures += explanation.draw(trained, utterances, dataset_of(trained, utterances), p, drawn)
        kept.add([made[path] for path in part])
    warn_of_missing(trained.config, said, wordless)
    return pictures


def probabilities(
    trained: evaluate.Trained, utterances: Sequence[Utterance], width_multiple: int = data.WIDTH_MULTIPLE
) -> np.ndarray:
    """[utterances, classes]; width_multiple: of `data.from_arrays`."""
    if trained.config.model.functionals:
        rows = [row for utterance in utterances for row in utterance.logmel]
        place = np.repeat(np.arange(len(utterances)), [len(utterance.logmel) for utterance in utterances])
        rows = rows if trained.config.model.functionals in models.FRAME_LEVEL_MODELS else np.stack(rows)
        log_p = closed_form.log_probabilities(trained.module(), rows, place)
    else:
        log_p = scoring.score(trained.model, trained.state, dataset_of(trained, utterances, width_multiple))
    return np.exp(calibration.tempered(log_p, calibration.temperature_of(trained.description)))


def dataset_of(
    trained: evaluate.Trained, utterances: Sequence[Utterance], width_multiple: int = data.WIDTH_MULTIPLE
) -> data.Dataset:
    config, vocabulary = trained.config, trained.description["vocabulary"]
    return data.from_arrays(
        [x.logmel for x in utterances] if config.model.audio else None,
        [data.token_ids(x.words, vocabulary) for x in utterances] if config.model.text else None,
        np.zeros(len(utterances), np.int32),
        max_frames=max_frames(config),
        max_tokens=config.text.max_tokens,
        batch_size=config.train.batch_size,
        buckets=config.data.buckets,
        width_multiple=width_multiple,
    )


def record(trained: evaluate.Trained, utterance: Utterance, p: np.ndarray) -> dict:
    """What the JSON line of a file holds; p: probabilities [classes]."""
    unusual = notices.unusual(trained.description, utterance.conditions)
    if unusual:
        logging.warning("%s is unlike the training clips: %s", records.printable(utterance.path), "; ".join(unusual))
    labels = trained.description["labels"]
    least = _least(trained)
    made = {
        "file": str(utterance.path),
        "emotion": labels[int(p.argmax())],
        "probabilities": {label: round(float(value), 6) for label, value in zip(labels, p, strict=True)},
        "trained_on": trained.description["corpus"],
    }
    made |= {"unsure": bool(p.max() < least)} if least else {}
    return made | ({"notices": unusual} if unusual else {})


def _least(trained: evaluate.Trained) -> float:
    """The least confidence that is not called unsure."""
    return calibration.threshold(trained.description.get("calibration"), trained.config.evaluate.unsure)


def _width(paths: Sequence[pathlib.Path]) -> int:
    return max(len(records.printable(path)) for path in paths)


def _show_head(trained: evaluate.Trained, paths: Sequence[pathlib.Path]) -> None:
    labels = trained.description["labels"]
    print(f"{'file':{_width(paths)}}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in labels))


def _show(
    trained: evaluate.Trained, paths: Sequence[pathlib.Path], utterances: Sequence[Utterance], p: np.ndarray
) -> None:
    labels, width, least = trained.description["labels"], _width(paths), _least(trained)
    for utterance, row in zip(utterances, p, strict=True):
        name = records.printable(utterance.path)
        emotion = labels[int(row.argmax())] if row.max() >= least else "unsure"
        print(f"{name:{width}}  {emotion:10}  " + "  ".join(f"{value:9.3f}" for value in row), flush=True)
