"""Times of writing and reading checkpoints, and of turning recordings into features."""

import concurrent.futures
import functools
import itertools
import multiprocessing
import pathlib
import time

import jax
import numpy as np

from emoflax.benchmark import timing
from emoflax.parallel.workers import usable_cores

ROUNDS = 3
RATE_HZ = 48_000  # of the recordings, as in RAVDESS
CLIP_S, QUIET_S = 3.0, 0.5  # silence at both ends included
TOLERANCE_DB = 0.1


def checkpoint_times(state, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Saving a training state until it is on disk, and restoring it."""
    from emoflax.training.checkpoint import Checkpoints, open_existing, parts_of

    save_s, restore_s = [], []
    for number in range(ROUNDS):
        begin = time.perf_counter()
        checkpoints = Checkpoints(folder / str(number))
        checkpoints.save(1, {}, 0.0, *parts_of(state))
        checkpoints.close()
        save_s.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        checkpoints = open_existing(folder / str(number))
        jax.block_until_ready(checkpoints.restore_state(1, state))
        restore_s.append(time.perf_counter() - begin)
        checkpoints.close()
    return {"save": timing.spread(save_s), "restore": timing.spread(restore_s)}


def precompute_times(config, clips: int, folder: pathlib.Path) -> dict[str, float]:
    """Clips per second of our pool, of plain librosa in a loop, and of plain librosa in a pool of as many processes.

    All three start new processes; their start and imports are timed, too. Only log-mels at the
    level of the recording: librosa has no contours, and measures no speech level.

    Raises:
      ArithmeticError: our features are not librosa's.
    """
    from emoflax.data.clip import Clip, Corpus
    from emoflax.precompute import build

    paths = write_recordings(folder / "recordings", clips)
    corpus = Corpus("benchmark", ("a",), tuple(Clip(path.stem, "a", "s", str(path)) for path in paths))
    audio = config.audio.to_dict() | {"contours": False, "level": "absolute"}
    workers = config.precompute.workers or usable_cores()
    # Small shards, so that all workers get some: a worker takes a shard at a time.
    settings = config.precompute.to_dict() | {"shard_clips": max(1, clips // (4 * workers))}
    begin = time.perf_counter()
    ours = build.log_mels(corpus, audio, str(folder / "cache"), settings)
    ours_s = time.perf_counter() - begin
    loop_s, theirs = _librosa_pool(paths, audio, 1)
    pool_s, _ = _librosa_pool(paths, audio, workers)
    _compare(ours, theirs)
    seconds = {"ours": ours_s, "librosa_loop": loop_s, "librosa_pool": pool_s}
    rates = {"clips": clips, "workers": workers}
    rates |= {f"{name}_clips_per_s": clips / value for name, value in seconds.items()}
    return rates | {"ratio_to_librosa_loop": loop_s / ours_s, "ratio_to_librosa_pool": pool_s / ours_s}


def write_recordings(folder: pathlib.Path, clips: int) -> list[pathlib.Path]:
    """Noise whose level rises and falls, with silence before and after it."""
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    loud = round((CLIP_S - 2 * QUIET_S) * RATE_HZ)
    quiet = np.zeros(round(QUIET_S * RATE_HZ), np.float32)
    paths = [folder / f"{number:05d}.wav" for number in range(clips)]
    for path in paths:
        sound = 0.1 * np.sin(np.linspace(0, np.pi, loud, dtype=np.float32)) * rng.standard_normal(loud, np.float32)
        soundfile.write(path, np.concatenate([quiet, sound, quiet]), RATE_HZ, "PCM_16")
    return paths


def plain_librosa(path: pathlib.Path, audio: dict) -> np.ndarray:
    """Float32 [mels, frames] in dB, as librosa's own examples compute it."""
    import librosa  # the worker processes alone need it

    rate_hz = audio["sample_rate_hz"]
    wave, _ = librosa.load(path, sr=rate_hz)
    wave -= wave.mean()  # as `features.recording` does
    if audio["trim_db"]:
        wave, _ = librosa.effects.trim(wave, top_db=audio["trim_db"])
    window = round(audio["window_ms"] * rate_hz / 1000)
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=rate_hz,
        n_fft=1 << (window - 1).bit_length(),
        win_length=window,
        hop_length=round(audio["hop_ms"] * rate_hz / 1000),
        n_mels=audio["mels"],
        fmin=audio["fmin_hz"],
        fmax=audio["fmax_hz"],
    )
    return librosa.power_to_db(power)


def _librosa_pool(paths: list[pathlib.Path], audio: dict, workers: int) -> tuple[float, list[np.ndarray]]:
    """Seconds, and the first few spectrograms."""
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        logmels = pool.map(functools.partial(plain_librosa, audio=audio), paths, chunksize=4)
        first = list(itertools.islice(logmels, 4))
        for _ in logmels:
            pass
    return time.perf_counter() - begin, first


def _compare(ours, theirs: list[np.ndarray]) -> None:
    for mine, plain in zip(ours, theirs, strict=False):
        if mine.shape != plain.T.shape or np.abs(mine - plain.T).max() > TOLERANCE_DB:
            raise ArithmeticError("our log-mels differ from plain librosa's; their times cannot be compared")
