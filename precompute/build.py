"""Corpus -> shards of features: worker processes, one progress bar, and going on where a killed run stopped.

A cache folder's name holds a hash of everything that its bytes follow from (feature settings, the code that makes the
features, library versions, size and date of every file), so a changed setting, line of code or recording gets another
folder, and old features are never read in the place of new ones.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from absl import logging
from tqdm import tqdm

from emoflax import fingerprint
from emoflax.audio.channels import channels, functionals_count
from emoflax.data import shards
from emoflax.data.clip import Clip, Corpus
from emoflax.data.shards import Failure, Row, ShardSet
from emoflax.errors import UserError
from emoflax.parallel.workers import end_with_parent, usable_cores
from emoflax.precompute import beam

WAVE_FIELDS = ("sample_rate_hz", "trim_db", "level")  # of config.audio, that shape a waveform
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
_POLL_S = 0.1  # how often the bar is redrawn
_CODE = ("emoflax.features", "emoflax.audio", "emoflax.data.subwords")  # the packages that make features


def log_mels(corpus: Corpus, audio: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]) -> ShardSet:
    """Log-mel spectrograms of a corpus, float32 [frames, mels] per clip in dB, computed where they are not cached.

    Args:
      corpus: clips with recordings.
      audio: the fields of config.audio; and 'speed', if not 1, that the recordings are played at.
      cache_dir: shards go to <cache_dir>/<corpus name>/logmel-<hash>.
      precompute: the fields of config.precompute.

    Raises:
      UserError: no recordings, too many that cannot be used, bad settings, disk trouble, damaged shards.
    """
    head = log_mel_head(corpus, audio, precompute)
    write = functools.partial(write_log_mel_shard, audio=dict(audio))
    return from_recordings(corpus, head, write, audio, cache_dir, precompute)


def waves(corpus: Corpus, audio: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]) -> ShardSet:
    """Trimmed waveforms of a corpus, int16 [samples] per clip, to be multiplied by the set's `scales`.

    Arguments and errors are those of `log_mels`; of config.audio only `WAVE_FIELDS` matter.
    """
    kept = {name: audio[name] for name in WAVE_FIELDS}
    settings = {**kept, **audio_versions(), **code_of(write_wave_shard)}
    head = head_of("wave", corpus, recordings(corpus), settings, precompute)
    write = functools.partial(write_wave_shard, kept=kept)
    return from_recordings(corpus, head, write, audio, cache_dir, precompute)


def functionals(
    corpus: Corpus, audio: Mapping[str, Any], wanted: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]
) -> ShardSet:
    """Functionals of a corpus, float32 [speeds, functionals] per clip.

    Arguments and errors are those of `log_mels`; of config.audio only `WAVE_FIELDS` matter. `wanted`: the
    fields of config.functionals.
    """
    from emoflax.features.functionals import check

    check(audio["sample_rate_hz"], wanted["statistics"], wanted["kernels"])
    kept = {name: audio[name] for name in WAVE_FIELDS}
    kept |= {**wanted, "speeds": list(wanted["speeds"])}
    settings = {**kept, **audio_versions(), **code_of(write_functionals_shard)}
    head = head_of("functionals", corpus, recordings(corpus), settings, precompute)
    write = functools.partial(write_functionals_shard, kept=kept)
    return from_recordings(corpus, head, write, audio, cache_dir, precompute)


def from_recordings(
    corpus: Corpus,
    head: dict[str, Any],
    write: Callable[..., None],
    audio: Mapping[str, Any],
    cache_dir: str,
    precompute: Mapping[str, Any],
) -> ShardSet:
    """Opens the folder with that head, and before that makes it where it is not there: write(folder, number, clips)."""
    folder = cache_folder(cache_dir, head)
    if (folder / shards.MANIFEST).exists():
        logging.info("%s cache found: %s", head["kind"], folder)
    else:
        _compute(folder, corpus.clips, write, audio, precompute)
        shards.write_manifest(folder, len(parts_of(corpus.clips, precompute)), head)
    return open_finished(folder, precompute)


def tokens(corpus: Corpus, text: Mapping[str, Any], cache_dir: str, precompute: Mapping[str, Any]) -> ShardSet:
    """Tokens of a corpus's transcripts, int32 [tokens] per clip: places in manifest['lexicon'], all distinct tokens.

    The lexicon is that of the whole corpus, sorted; which of its words a model knows is for the training split to
    say, so one cache serves every split. A clip that nobody could transcribe counts as unreadable. Where transcripts
    can be compared with reference text, manifest['word_errors'] holds clip id -> [wrong words, words of the reference].

    Args:
      corpus: clips with recordings or reference text, as text['source'] needs.
      text: the fields of config.text.
      cache_dir: shards go to <cache_dir>/<corpus name>/tokens-<hash>.
      precompute: the fields of config.precompute.

    Raises:
      UserError: no transcripts to be had, too many missing, disk trouble, damaged shards.
    """
    from emoflax.features.text import choose_source, cutter, transcripts

    cut, source = cutter(text), choose_source(corpus, text, cache_dir)
    said = transcripts(corpus, {**text, "source": source}, cache_dir)
    words = [None if t is None else cut(t) for t in said]
    lexicon = sorted({word for line in words for word in line or ()})
    lines = [[clip.id, line] for clip, line in zip(corpus.clips, words, strict=True)]
    head = head_of("tokens", corpus, lines, {"lowercase": text["lowercase"], **code_of(tokens)}, precompute)
    folder = cache_folder(cache_dir, head)
    if not (folder / shards.MANIFEST).exists():
        places = {word: place for place, word in enumerate(lexicon)}
        rows = [_token_row(clip, line, places) for clip, line in zip(corpus.clips, words, strict=True)]
        parts = parts_of(rows, precompute)
        shards.make_folder(folder)
        for number, part in enumerate(parts):
            shards.write_shard(folder, number, part, (), "<i4")
        errors = _word_errors(corpus, said) if source in ("whisper", "file") else {}
        shards.write_manifest(folder, len(parts), {**head, "lexicon": lexicon, "word_errors": errors})
    return open_finished(folder, precompute)


def log_mel_head(corpus: Corpus, audio: Mapping[str, Any], precompute: Mapping[str, Any]) -> dict[str, Any]:
    """What the bytes of a corpus's log-mel shards follow from; the head of their manifest."""
    settings = {**audio, **audio_versions(), **code_of(write_log_mel_shard)}
    return head_of("logmel", corpus, recordings(corpus), settings, precompute)


def recordings(corpus: Corpus) -> list[list]:
    """What is known of each clip's recording without reading it."""
    if not corpus.has_audio:
        raise UserError(f"Corpus {corpus.name} has no recordings. Choose a model of text: --config.model.audio=''.")
    return [[clip.id, *_file_state(clip.path), clip.start_s, clip.end_s] for clip in corpus.clips]


def audio_versions() -> dict[str, str]:
    """Of the libraries that the last digits of features depend on."""
    return fingerprint.versions("librosa", "soxr", "scipy")


def code_of(function: Callable) -> dict[str, dict[str, str]]:
    """{'code': hash of every module by which the function makes features}; they are found by its own imports."""
    return {"code": fingerprint.of_function(function, within=_CODE)}


def cache_folder(cache_dir: str, head: Mapping[str, Any]) -> Path:
    """Where the shards with that head are kept: <cache_dir>/<corpus name>/<kind>-<hash of the head>."""
    name = re.sub(r"[^\w.-]+", "-", head["corpus"])  # 'tfds:NAME' may hold what a file system refuses
    return Path(cache_dir) / name / f"{head['kind']}-{_hash([shards.FORMAT, head])[:16]}"


def write_log_mel_shard(folder: Path, number: int, clips: Iterable[Clip], audio: Mapping[str, Any]) -> None:
    """Makes one shard: its bytes follow from clips and settings alone, whoever calls it on whatever machine."""
    from emoflax.features.log_mel import log_mel  # here, so that training on finished shards needs no audio libraries

    def row(clip: Clip) -> Row:
        frames, recording = log_mel(clip.path, clip.start_s, clip.end_s, **audio)
        return Row(clip.id, frames, recording.digest, conditions=tuple(recording.conditions.values()))

    shards.write_shard(folder, number, _rows(clips, row), (channels(audio),), "<f4")


def write_wave_shard(folder: Path, number: int, clips: Iterable[Clip], kept: Mapping[str, Any]) -> None:
    """As `write_log_mel_shard`; kept: the fields of config.audio that shape a waveform."""
    from emoflax.features import recording
    from emoflax.features.log_mel import in_16_bits

    def row(clip: Clip) -> Row:
        one = recording.read(clip.path, clip.start_s, clip.end_s, **kept)
        samples, scale = in_16_bits(one.wave)
        return Row(clip.id, samples, one.digest, scale, tuple(one.conditions.values()))

    shards.write_shard(folder, number, _rows(clips, row), (), "<i2")


def write_functionals_shard(folder: Path, number: int, clips: Iterable[Clip], kept: Mapping[str, Any]) -> None:
    """As `write_log_mel_shard`; kept: the arguments of `functionals.of_recording`."""
    from emoflax.features.functionals import of_recording

    def row(clip: Clip) -> Row:
        values, recording = of_recording(clip.path, clip.start_s, clip.end_s, **kept)
        return Row(clip.id, values, recording.digest, conditions=tuple(recording.conditions.values()))

    width = functionals_count(kept["statistics"], kept["kernels"])
    shards.write_shard(folder, number, _rows(clips, row), (width,), "<f4")


def rows_of(clips: Iterable[Clip], make: Callable[[Clip], Row]) -> Iterator[Row | Failure]:
    """A row of each clip whose recording can be used, and why not of the others."""
    for clip in clips:
        try:
            row = make(clip)
        except UserError as error:
            row = Failure(clip.id, clip.path, str(error))
        yield row


_rows = rows_of  # by this name the functions above call it, and what they are called by is hashed with their shards


def _word_errors(corpus: Corpus, transcripts: Sequence[str | None]) -> dict[str, tuple[int, int]]:
    from emoflax.features import word_errors

    both = zip(corpus.clips, transcripts, strict=True)
    pairs = [(clip, text) for clip, text in both if clip.text is not None and text is not None]
    counts = word_errors.count([clip.text for clip, _ in pairs], [text for _, text in pairs])
    return {clip.id: found for (clip, _), found in zip(pairs, counts, strict=True)}


def _token_row(clip: Clip, words: list[str] | None, places: Mapping[str, int]) -> Row | Failure:
    if words is None:
        return Failure(clip.id, clip.path, f"Clip {clip.id} has no transcript.")
    return Row(clip.id, np.array([places[word] for word in words], np.int32))


def _compute(
    folder: Path,
    clips: Sequence[Clip],
    write: Callable[..., None],
    audio: Mapping[str, Any],
    precompute: Mapping[str, Any],
) -> None:
    """Writes the shards that are not there yet, each whole by one worker process."""
    from emoflax.features.log_mel import check_settings

    check_settings(**audio)
    shards.make_folder(folder)
    parts = dict(enumerate(parts_of(clips, precompute)))
    missing = {number: part for number, part in parts.items() if shards.clips_done(folder, number) != len(part)}
    done = len(clips) - sum(len(part) for part in missing.values())
    if missing and precompute["runner"]:
        logging.info("%d of %d clips by Apache Beam's %s", len(clips) - done, len(clips), precompute["runner"])
        beam.write_shards(write, folder, missing, precompute["runner"], precompute["runner_options"])
        return
    tasks = [functools.partial(_work, write, folder, *task) for task in missing.items()]
    with tqdm(total=len(clips), initial=done, desc="recordings", unit="clip", smoothing=0) as bar:
        _run(tasks, precompute["workers"], bar)


def _run(tasks: Sequence[functools.partial], workers: int, bar: tqdm) -> None:
    """Runs the tasks in worker processes, which count finished clips up for the bar.

    Spawned, not forked: a process that has started JAX's threads must not be forked. Starting one costs about 1.5 s,
    nearly all of it librosa's import, which would cost the same in this process.
    """
    if not tasks:
        return
    context = multiprocessing.get_context("spawn")
    finished, stop, before = context.Value("q", 0), context.RawValue("b", 0), bar.n
    count = min(workers or usable_cores(), len(tasks))
    with concurrent.futures.ProcessPoolExecutor(count, context, _start_worker, (finished, stop)) as pool:
        try:
            pending = {pool.submit(task) for task in tasks}
            while pending:
                done, pending = concurrent.futures.wait(pending, _POLL_S, concurrent.futures.FIRST_COMPLETED)
                # Read past the lock: a worker that was killed while it held it must not stop us.
                if new := before + finished.get_obj().value - bar.n:
                    bar.update(new)
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process ended before its work was done, most often because memory ran out. Finished shards "
                "are kept: run the same command again, with fewer --config.precompute.workers if it happens again."
            ) from error
        except BaseException:  # Ctrl-C as well: do not make the user wait for the shards in work
            stop.value = 1
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """What a worker process shares with its parent; set by _start_worker."""

    finished: Any = None
    stop: Any = None


def _start_worker(finished: Any, stop: Any) -> None:
    _Worker.finished, _Worker.stop = finished, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent answers it
    end_with_parent()
    threadpoolctl.threadpool_limits(1)  # as many processes as cores already; and sums are then the same on any machine
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """glibc gives large arrays back at once; to ask for their pages anew took a fifth of the time of functionals."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _work(write: Callable[..., None], folder: Path, number: int, clips: Sequence[Clip]) -> None:
    write(folder, number, _counted(clips))


def _counted(clips: Iterable[Clip]) -> Iterator[Clip]:
    for clip in clips:
        if _Worker.stop.value:
            raise concurrent.futures.CancelledError
        yield clip
        with _Worker.finished.get_lock():
            _Worker.finished.value += 1


def parts_of(items: Sequence, precompute: Mapping[str, Any]) -> list[Sequence]:
    """Items of each shard."""
    size = precompute["shard_clips"]
    return [items[start : start + size] for start in range(0, len(items), size)]


def head_of(
    kind: str, corpus: Corpus, contents: list, settings: Mapping[str, Any], precompute: Mapping[str, Any]
) -> dict[str, Any]:
    """What the bytes of shards follow from: the head of their manifest, and by its hash the folder's name."""
    for field, least in (("shard_clips", 1), ("workers", 0)):
        if precompute[field] < least:
            raise UserError(f"--config.precompute.{field} must be at least {least}.")
    if not corpus.clips:
        raise UserError(f"Corpus {corpus.name} has no clips. Look at --config.data.dir.")
    return {
        "kind": kind,
        "corpus": corpus.name,
        "fingerprint": _hash(contents),
        "settings": {**settings, "shard_clips": precompute["shard_clips"]},
    }


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_state(path: str) -> tuple[int, int] | tuple[None, None]:
    """Size in bytes and time of change in ns; None for both if it cannot be read, until somebody mends that."""
    try:
        state = os.stat(path)
    except OSError:
        return None, None
    return (state.st_size, state.st_mtime_ns) if os.access(path, os.R_OK) else (None, None)


def open_finished(folder: Path, precompute: Mapping[str, Any]) -> ShardSet:
    """Opens a finished folder and judges whether enough of its clips could be used."""
    features = ShardSet.open(folder, verify=True)
    bad = len(features.failures)
    if bad:
        total = bad + len(features)
        what = f"{bad} of {total} clips cannot be used (list: {folder / shards.UNREADABLE})"
        first = " ".join(failure["reason"] for failure in features.failures[:3])
        if not len(features) or bad > precompute["max_bad_share"] * total:
            raise UserError(
                f"{what}, more than --config.precompute.max_bad_share={precompute['max_bad_share']:g} of them allows. "
                f"Mend them, take them out of the corpus, or raise that share. The first: {first}"
            )
        logging.warning("%s; they are left out, or used without words beside a sound. The first: %s", what, first)
    return features
