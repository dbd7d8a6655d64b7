"""Times the linear probe on random states of the size that Whisper-large has on RAVDESS.

    python -m emoflax.benchmark.probe

1440 clips of 24 speakers, 33 layers of 1280 numbers, 6 ridges, 24 folds, read from shards as --mode=probe reads them.
On random numbers the mean UAR of left-out speakers must be chance; it is printed to show that no label leaks.
"""

import pathlib
import tempfile
import time

import numpy as np

from emoflax.configs.probe import get_config
from emoflax.data import shards, splits
from emoflax.data.clip import Clip, Corpus
from emoflax.data.features import Features
from emoflax.reporting import ledger
from emoflax.selection import probe

SPEAKERS, CLIPS, LAYERS, WIDTH = 24, 60, 33, 1280
LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SHARD_CLIPS = 240


def random_features(folder: pathlib.Path) -> Features:
    """RAVDESS's numbers of clips: four neutral ones and eight of each other emotion per speaker."""
    labels = [LABELS[(number + 4) // 8] for number in range(CLIPS)]
    clips = tuple(
        Clip(f"{speaker:02d}-{number:02d}", label, f"{speaker:02d}")
        for speaker in range(SPEAKERS)
        for number, label in enumerate(labels)
    )
    rng = np.random.default_rng(0)
    shards.make_folder(folder)
    for number in range(len(clips) // SHARD_CLIPS):
        part = clips[number * SHARD_CLIPS : (number + 1) * SHARD_CLIPS]
        rows = (shards.Row(clip.id, rng.standard_normal((1, LAYERS, 1, WIDTH), np.float32), clip.id) for clip in part)
        shards.write_shard(folder, number, rows, (LAYERS, 1, WIDTH), "<f4")
    shards.write_manifest(folder, number + 1, {"kind": "states", "corpus": "random", "settings": {}})
    return Features(Corpus("random", LABELS, clips), {"states": shards.ShardSet.open(folder)})


def main() -> None:
    config = get_config()
    with tempfile.TemporaryDirectory() as folder:
        features = random_features(pathlib.Path(folder))
        corpus, begin = features.corpus, time.perf_counter()
        folds = [splits.make_split(corpus, "loso", fold, 0.0, {}) for fold in range(1, SPEAKERS + 1)]
        choices = probe.choose(config, features, folds)
        seconds = time.perf_counter() - begin
    uar = np.mean([choice.inner_uar.mean() for choice in choices])
    print(
        f"{SPEAKERS} folds x {LAYERS} layers x {len(config.probe.ridges)} ridges, "
        f"{SPEAKERS * CLIPS} clips of width {WIDTH}: "
        f"{seconds:.1f} s on {ledger.machine()} (UAR {100 * uar:.1f} %, chance {100 / len(LABELS):.1f} %)"
    )


if __name__ == "__main__":
    main()
