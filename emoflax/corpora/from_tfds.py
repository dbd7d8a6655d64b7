"""Any tensorflow-datasets audio dataset with a label and a speaker as a corpus: `--config.data.corpus=tfds:NAME`.

Features are made of files, so each example is written once as a WAV file under the cache: one path from a recording to
its features, at the cost of disk space. tfds is imported inside the functions: importing it takes a second.
"""

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from emoflax.corpora import whole_folder
from emoflax.corpora.whole_folder import INDEX
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError, optional
from emoflax.files import expanded

AUDIO_NAMES = ("audio", "speech", "wav", "waveform", "sound")
RATE_NAMES = ("sample_rate_hz", "sample_rate", "sampling_rate", "sr")
LABEL_NAMES = ("label", "emotion", "emotion_label", "class")
SPEAKER_NAMES = ("speaker", "speaker_id", "actor", "actor_id")
TEXT_NAMES = ("text", "transcript", "transcription", "sentence")
SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
COLUMNS = ("id", "label", "speaker", "text", "split")


def load(name: str, dir: str, cache_dir: str) -> Corpus:
    """The dataset's clips; prepares it and writes their WAV files on first use.

    Args:
      name: as tfds.builder takes it, e.g. 'ravdess_speech' or 'my_corpus/config:1.0.0'.
      dir: tfds's data_dir, where the dataset is prepared or is to be prepared (recordings that tfds cannot fetch go to
        its downloads/manual); '' is `<cache_dir>/tfds`.
      cache_dir: the WAV files go to `<cache_dir>/tfds_wav`.

    Raises:
      UserError: there is no such dataset, it cannot be prepared or lacks a feature, a package it needs is not
        installed (usually TensorFlow), or the disk cannot be written.
    """
    data_dir = expanded(dir or f"{cache_dir}/tfds")
    with _explained(name, data_dir):
        builder = _builder(name, data_dir)
        features = _Features(name, builder.info.features)  # before gigabytes are downloaded for nothing
        _prepare(builder, name, data_dir)
        sources = builder.as_data_source()
    splits = builder.info.splits
    # Shard lengths and bytes identify a dataset that was prepared again with other content under the same version.
    content = {split: [splits[split].num_bytes, *splits[split].shard_lengths] for split in sorted(splits)}
    fingerprint = sha256(json.dumps(content).encode()).hexdigest()[:12]
    folder = expanded(cache_dir) / "tfds_wav" / f"{_plain(builder.info.full_name)}-{fingerprint}"
    if not folder.exists():
        _write(folder, sources, features)
    return _read(folder, "tfds_" + _plain(name), features.label_names)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name)


@contextlib.contextmanager
def _explained(name: str, data_dir: Path) -> Iterator[None]:
    """Raises a UserError that names the missing package, or that the prepared files need TensorFlow."""
    try:
        yield
    except ImportError as error:
        package = _missing_package(error)
        if package is None:
            raise
        raise UserError(
            f"The tfds dataset {name} needs {package} to be prepared or read, and it is not installed: "
            f"`pip install {package}`, then run again."
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"The tfds dataset {name} in {data_dir} is prepared in a format that only TensorFlow reads. Prepare it "
            "again with file_format='array_record', or leave --config.data.dir empty to have that done."
        ) from error


def _missing_package(error: BaseException) -> str | None:
    """Its name from the cause of tfds's ImportError, which names the module."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.split(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _builder(name: str, data_dir: Path) -> Any:
    with optional(f"--config.data.corpus=tfds:{name}", "tfds"):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.registered import DatasetNotFoundError

        from emoflax.corpora import ravdess_speech  # noqa: F401  registers our own builder

    try:
        return tfds.builder(name, data_dir=data_dir)
    except DatasetNotFoundError as error:
        raise UserError(
            f"tfds has no dataset {name}, and none of that name is prepared in {data_dir}. Check the spelling, or set "
            "--config.data.dir to the data_dir that holds it."
        ) from error
    except (ValueError, AssertionError) as error:  # the name does not parse; no such config; no such version
        reason = " ".join(str(error).split())
        raise UserError(f"tfds cannot open the dataset {name}: {reason}") from error


def _prepare(builder: Any, name: str, data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    if builder.data_path.exists():
        return
    try:
        # Google's bucket holds TFRecord files only, which need TensorFlow.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # AssertionError: manual_dir is empty
        reason = " ".join(str(error).split())
        raise UserError(f"The tfds dataset {name} could not be prepared in {data_dir}: {reason}") from error


class _Features:
    """Which features of a dataset are audio, label, speaker, text and sample rate.

    Attributes:
      label_names: in the order of the dataset's ClassLabel; empty where labels are written out.
    """

    def __init__(self, name: str, features: Any):
        import tensorflow_datasets as tfds

        self._all, self._name = features, name
        self._audio = self._find("audio", AUDIO_NAMES, lambda f: len(f.shape) in (1, 2) and f.shape[0] is None)
        self._label = self._find("label", LABEL_NAMES, lambda f: f.shape == ())
        self._speaker = self._find("speaker", SPEAKER_NAMES, lambda f: f.shape == ())
        self._text = next((key for key in TEXT_NAMES if key in features and features[key].shape == ()), None)
        self._rate = next((key for key in RATE_NAMES if key in features), None)
        self._rate_hz = getattr(features[self._audio], "sample_rate", None)
        if self._rate is None and not self._rate_hz:
            raise UserError(
                f"The tfds dataset {name} does not state its sample rate: neither its feature {self._audio} nor a "
                f"feature of its own ({', '.join(RATE_NAMES)}) does. It has {', '.join(features)}."
            )
        is_class = isinstance(features[self._label], tfds.features.ClassLabel)
        self.label_names = tuple(features[self._label].names) if is_class else ()

    def _find(self, what: str, names: tuple[str, ...], fits: Callable[[Any], bool]) -> str:
        for key in names:
            if key in self._all and fits(self._all[key]):
                return key
        present = ", ".join(f"{key} ({type(value).__name__})" for key, value in self._all.items())
        raise UserError(
            f"The tfds dataset {self._name} has no {what} feature: none of {', '.join(names)} is there with the right "
            f"shape. It has {present}."
        )

    def _written(self, key: str, example: dict) -> str:
        value, feature = example[key], self._all[key]
        if hasattr(feature, "int2str"):
            return feature.int2str(int(value))
        return value.decode() if isinstance(value, bytes) else str(value)

    def words(self, example: dict) -> tuple[str, str, str]:
        """Label, speaker and text ('' where there is none)."""
        text = self._written(self._text, example) if self._text else ""
        return self._written(self._label, example), self._written(self._speaker, example), text

    def sound(self, example: dict) -> tuple[np.ndarray, int]:
        """Samples `[samples]` or `[samples, channels]` in a type that a WAV file can hold, and the rate in Hz."""
        samples = example[self._audio]
        rate_hz = int(example[self._rate]) if self._rate else int(self._rate_hz)
        if samples.dtype.kind == "f":
            return samples.astype(np.float32), rate_hz
        if samples.dtype == np.uint8:
            return (samples.astype(np.int16) - 128) << 8, rate_hz
        # features.Audio widens 16-bit recordings to int64: values within 16 bits are written as 16 bits again.
        fits = np.abs(samples.astype(np.int64)).max(initial=0) <= 2**15
        return np.clip(samples, -(2**15), 2**15 - 1).astype(np.int16) if fits else samples.astype(np.int32), rate_hz


def _write(folder: Path, sources: dict[str, Any], features: _Features) -> None:
    """Writes all examples as WAV files and an index."""
    splits = sorted(sources)
    known = len(splits) > 1 and all(split in SPLITS for split in splits)

    def fill(half: Path) -> None:
        with open(half / INDEX, "w", newline="", encoding="utf-8") as out:
            index = csv.writer(out)
            index.writerow(COLUMNS)
            for split in splits:
                _write_split(half, split, sources[split], features, index, SPLITS[split] if known else "")

    whole_folder.make(folder, fill)


def _write_split(folder: Path, split: str, source: Any, features: _Features, index: Any, ours: str) -> None:
    import soundfile  # only needed to write a new cache

    (folder / split).mkdir()
    for number in tqdm(range(len(source)), desc=f"write {split} clips", unit="clip"):
        example = source[number]
        clip_id = f"{split}/{number:06d}"
        samples, rate_hz = features.sound(example)
        kind = {"int16": "PCM_16", "int32": "PCM_32", "float32": "FLOAT"}[samples.dtype.name]
        soundfile.write(folder / f"{clip_id}.wav", samples, rate_hz, subtype=kind)
        index.writerow([clip_id, *features.words(example), ours])


def _read(folder: Path, name: str, label_names: tuple[str, ...]) -> Corpus:
    rows = whole_folder.read_index(folder)
    clips = tuple(
        Clip(
            id=row["id"],
            label=row["label"],
            speaker=row["speaker"],
            path=str(folder / f"{row['id']}.wav"),
            text=row["text"] or None,
            split=row["split"] or None,
        )
        for row in sorted(rows, key=lambda row: row["id"])
    )
    return Corpus(name, label_names or tuple(sorted({clip.label for clip in clips})), clips)
