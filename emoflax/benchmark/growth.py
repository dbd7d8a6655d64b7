"""How the time of an epoch grows with the number of clips and with their length.

    python -m emoflax.benchmark.growth configs/cnn2.py

Random clips of equal length, in memory. A share of 1.0 in the last column is linear growth: with n times the sound an
epoch takes n times as long. Prints a table and writes growth.json into --workdir.
"""

import argparse

import jax
import numpy as np
from ml_collections import ConfigDict

from emoflax.audio.channels import channels
from emoflax.benchmark import script, setup, timing
from emoflax.data import dataset as data
from emoflax.data.dataset import Dataset
from emoflax.errors import UserError
from emoflax.training.epoch import train_epoch

SIZES = ((1, 1), (10, 1), (1, 4), (10, 4))  # times the clips, times the length


class Epochs:
    """Training on one size; its program is compiled before the timing begins."""

    def __init__(self, start: setup.Setup, dataset: Dataset):
        self.train_config, self.state, self.buckets = start.train_config, start.state(), dataset.buckets

    def turn(self) -> None:
        self.state, _ = train_epoch(self.train_config, self.state, self.buckets)
        jax.block_until_ready(self.state)


def random_clips(start: setup.Setup, clips: int, frames: int) -> Dataset:
    """Log-mels of `clips` clips of `frames` frames each, in one bucket in memory."""
    rng = np.random.default_rng(0)
    shape = (clips, frames, channels(start.config.audio))
    return data.from_arrays(
        rng.standard_normal(shape, np.float32) * setup.STD_DB + setup.MEAN_DB, None,
        rng.integers(0, setup.CLASSES, clips).astype(np.int32),
        max_frames=frames, max_tokens=1, batch_size=start.config.train.batch_size, buckets=1, mesh=start.mesh,
    )  # fmt: skip


def measure(config: ConfigDict, clips: int, clip_s: float, budget_s: float) -> list[dict]:
    """For each of SIZES: its clips, seconds of a clip, times of an epoch, and `share` of linear growth.

    Raises:
      UserError: the config's model has no encoder of sound alone.
    """
    if not config.model.audio or config.model.text:
        raise UserError("growth is measured on models of sound: choose configs/cnn2.py or the like")
    start = setup.prepare(config)
    frames = round(clip_s * 1000 / config.audio.hop_ms)
    contestants = {size: Epochs(start, random_clips(start, clips * size[0], frames * size[1])) for size in SIZES}
    turns = {str(size): contestant.turn for size, contestant in contestants.items()}
    times = timing.alternate(turns, 1, budget_s)
    base = times[str(SIZES[0])]["median_ms"]
    return [
        {
            "times_clips": more, "times_length": longer, "clips": clips * more, "clip_s": clip_s * longer,
            "share": (median := times[str((more, longer))]["median_ms"]) / base / (more * longer),
            "epoch_s": median / 1000, "turns": times[str((more, longer))]["turns"],
        }
        for more, longer in SIZES
    ]  # fmt: skip


def table(sizes: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| clips | seconds each | more sound | epoch, s | longer epoch | share of linear |",
        "|---|---|---|---|---|---|",
    ]
    for size in sizes:
        sound = size["times_clips"] * size["times_length"]
        lines.append(
            f"| {size['clips']} | {size['clip_s']:g} | {sound}x | {size['epoch_s']:.2f} | {size['share'] * sound:.1f}x "
            f"| {size['share']:.2f} |"
        )
    return "\n".join(lines)


def main(options: argparse.Namespace) -> None:
    config = script.load_config(options.config)
    sizes = measure(config, options.clips, options.clip_s, options.budget_s)
    found = {"config": config.name, "batch_size": config.train.batch_size, "sizes": sizes}
    script.write(options.workdir / "growth.json", found, table(sizes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/cnn2.py", help="a model of sound")
    parser.add_argument("--clips", type=int, default=320, help="at 1x")
    parser.add_argument("--clip_s", type=float, default=1.0, help="seconds of a clip at 1x")
    parser.add_argument("--budget_s", type=float, default=120.0, help="how long epochs are timed, thrice at least")
    script.run(main, parser)
