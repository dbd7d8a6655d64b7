"""A corpus larger than memory: memory that streaming takes, and its speed relative to rows in memory.

    python -m emoflax.benchmark.streaming configs/cnn2.py --gigabytes=20

Makes shards of silence as sparse files (they take no disk), reads a whole epoch of them in training's random order,
then trains for some seconds on streamed batches and for as many on rows that lie in memory, in alternation.
Prints a table and writes streaming.json into --workdir. No disk is measured: sparse files are read at the speed of
memory. A disk or a network folder must deliver the MB/s that the table gives as needed.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from emoflax.benchmark import memory, script
from emoflax.data import shards, stream
from emoflax.data.clip import Clip, Corpus
from emoflax.data.dataset import Dataset
from emoflax.data.features import Features
from emoflax.data.shards import ShardSet
from emoflax.errors import UserError
from emoflax.experiment.features import dataset_of, max_frames
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.parallel import mesh as devices
from emoflax.training import epoch
from emoflax.training.step import TrainConfig

LABELS = ("a", "b", "c", "d", "e", "f", "g", "h")
SHARD_CLIPS = 4096
SPEAKERS = 100
ROUNDS = 3


def write_silence(folder: pathlib.Path, lengths: np.ndarray, channels: int) -> None:
    """Shards of log-mels of the given lengths, all zeros, as sparse files; their checksums are left out."""
    starts = range(0, len(lengths), SHARD_CLIPS)
    for number, start in enumerate(starts):
        own = lengths[start : start + SHARD_CLIPS]
        path = folder / f"shard-{number:05d}.npy"
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (int(own.sum()), channels)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * int(own.sum()) * channels)
        index = {
            "ids": [clip_id(clip) for clip in range(start, start + len(own))], "lengths": own.tolist(),
            "digests": [""] * len(own), "failures": [], "bytes": path.stat().st_size, "sha256": "",
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(index))
    shards.write_manifest(folder, len(starts), {"kind": "logmel", "corpus": "silence", "settings": {}})


def clip_id(clip: int) -> str:
    return f"{clip % SPEAKERS}/{clip}"


def corpus_of(clips: int) -> Corpus:
    made = (Clip(clip_id(clip), LABELS[clip % len(LABELS)], f"{clip % SPEAKERS}") for clip in range(clips))
    return Corpus("silence", LABELS, tuple(made))


def random_lengths(config: ConfigDict, nbytes: float) -> np.ndarray:
    """Frames of clips between half of config.data.max_s and all of it, until they come to so many bytes."""
    longest, frame_bytes = max_frames(config), 4 * config.audio.mels
    count = max(config.data.buckets * config.train.batch_size, round(nbytes / (0.75 * longest * frame_bytes)))
    return np.random.default_rng(0).integers(longest // 2, longest + 1, count)


class Epochs:
    """Training on streamed rows, chunk by chunk of an epoch."""

    def __init__(self, train_config: TrainConfig, model, dataset: Dataset):
        self.train_config, self.dataset = train_config, dataset
        self.state = devices.replicate(
            jax.tree.map(lambda leaf: leaf.copy(), train_config.init(model, 0)), dataset.mesh
        )
        self.longest = stream.steps_of_a_chunk(dataset.buckets)

    def chunks(self) -> Iterator[stream.Chunk]:
        """Chunks of one epoch that have all their steps."""
        steps = self.dataset.steps // self.longest * self.longest
        spans = [(begin, begin + self.longest) for begin in range(0, steps, self.longest)]
        return epoch.streamed(self.dataset.buckets, np.asarray(self.state.seed), 0, spans)

    def train(self, chunks: Iterator[stream.Chunk], seconds: float) -> float:
        """Steps per second, without the first chunks, during which later ones are made."""
        done = begin = 0.0
        for number, chunk in enumerate(chunks):
            self.state, metrics = epoch.train_chunk(self.train_config.step, self.state, chunk)
            jax.block_until_ready(metrics)
            now = time.perf_counter()
            if number == stream.AHEAD:  # from here on, training waits for the chunks to be made
                begin = now
            elif number > stream.AHEAD:
                done += self.longest
                if now - begin > seconds:
                    break
        return done / (now - begin)


def measure(config: ConfigDict, gigabytes: float, seconds: float, folder: pathlib.Path) -> dict:
    """Peak memory in MiB, steps/s of both, and what the disk has to deliver."""
    if not config.model.audio or config.model.text or config.data.store != "logmel" or config.audio.contours:
        raise UserError("streaming is measured on models of log-mels alone: choose configs/cnn2.py or the like")
    lengths = random_lengths(config, gigabytes * 1e9)
    write_silence(folder, lengths, config.audio.mels)
    found = {"gigabytes": 4e-9 * config.audio.mels * float(lengths.sum()), "clips": len(lengths)}
    corpus = corpus_of(len(lengths))
    features = Features(corpus, {"logmel": ShardSet.open(folder)})
    config.data.resident = "no"
    dataset = dataset_of(config, features, np.arange(len(lengths)), (), mesh=devices.all_devices())
    found["opened_mib"] = memory.peak_mib()
    model = build_model(config, 0, len(LABELS), seed=0)
    train_config = train_config_of(config, model, dataset.steps)
    epochs = Epochs(train_config, model, dataset)

    begin = time.perf_counter()
    for chunk in epochs.chunks():
        jax.block_until_ready(chunk)
    found["read_gb_per_s"] = found["gigabytes"] / (time.perf_counter() - begin)
    found["read_mib"] = memory.peak_mib()

    streamed, resident = [], []
    epochs.train(epochs.chunks(), 0.0)
    found["trained_mib"] = memory.peak_mib()
    held = Resident(epochs, features, config)
    held.train(0.0)
    for _ in range(ROUNDS):
        chunks = epochs.chunks()
        streamed.append(epochs.train(chunks, seconds))
        chunks.close()
        resident.append(held.train(seconds))
    found |= {"streamed_steps_per_s": float(np.median(streamed)), "resident_steps_per_s": float(np.median(resident))}
    found["ratio"] = found["streamed_steps_per_s"] / found["resident_steps_per_s"]
    mean_bytes = found["gigabytes"] * 1e9 / dataset.steps
    return found | {"needed_mb_per_s": mean_bytes * found["streamed_steps_per_s"] / 1e6}


class Resident:
    """The same training on as many clips as a chunk has, in memory."""

    def __init__(self, epochs: Epochs, features: Features, config: ConfigDict):
        config = config.copy_and_resolve_references()
        config.data.resident = "yes"
        clips = np.arange(min(len(features.corpus.clips), epochs.longest * config.train.batch_size))
        self.epochs, self.dataset = epochs, dataset_of(config, features, clips, (), mesh=epochs.dataset.mesh)

    def train(self, seconds: float) -> float:
        """Steps per second."""
        done, begin = 0, time.perf_counter()
        while not done or time.perf_counter() - begin < seconds:
            self.epochs.state, metrics = epoch.train_epoch(
                self.epochs.train_config, self.epochs.state, self.dataset.buckets
            )
            jax.block_until_ready(metrics)
            done += self.dataset.steps
        return done / (time.perf_counter() - begin)


def table(found: dict) -> str:
    return "\n".join(
        [
            f"{found['clips']} clips, {found['gigabytes']:.1f} GB of log-mels; peak of the process's memory in MiB:",
            f"  {found['opened_mib']:8.0f}  the corpus is opened",
            f"  {found['read_mib']:8.0f}  an epoch is read, at {found['read_gb_per_s']:.2f} GB/s",
            f"  {found['trained_mib']:8.0f}  some of it is trained on",
            f"{found['streamed_steps_per_s']:.2f} steps/s streamed, {found['resident_steps_per_s']:.2f} in memory: "
            f"{100 * found['ratio']:.0f} %; that takes {found['needed_mb_per_s']:.0f} MB/s of the disk",
        ]
    )


def main(options: argparse.Namespace) -> None:
    config = script.load_config(options.config)
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        found = measure(config, options.gigabytes, options.seconds, pathlib.Path(folder))
    script.write(options.workdir / "streaming.json", {"config": config.name} | found, table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/cnn2.py", help="of a model of log-mels")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of shards")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round on either side")
    script.run(main, parser)
