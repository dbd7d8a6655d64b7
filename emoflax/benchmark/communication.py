"""What data parallelism sends each step, and how long that takes on paper.

Every device computes the gradient of its own clips; before the update the gradients are added up over all devices. In a
ring all-reduce each of n devices sends 2 (n - 1) pieces of 1 / n of the bytes to its neighbour (Patarasuk & Yuan 2009,
"Bandwidth optimal all-reduce algorithms for clusters of workstations").
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
from flax import nnx
from ml_collections import ConfigDict

from emoflax.audio.channels import channels
from emoflax.benchmark import setup
from emoflax.experiment.model import build_model
from emoflax.training import optimizer

SAMPLE_BYTES, NUMBER_BYTES = 2, 4  # of a stored waveform's sample; of a gradient's, a log-mel's or a token's number


@dataclasses.dataclass(frozen=True)
class Link:
    """What connects a device to its neighbour in the ring.

    Attributes:
      bytes_per_s: of one direction.
      latency_s: from one device to the next, software included.
      source: of both, in words.
    """

    bytes_per_s: float
    latency_s: float
    source: str

    def all_reduce_s(self, nbytes: float, devices: int) -> float:
        """Seconds that a ring of so many devices takes to add up `nbytes`."""
        steps = 2 * (devices - 1)
        return steps / devices * nbytes / self.bytes_per_s + steps * self.latency_s


_NCCL = "latency of a ring's step in NCCL's source, src/graph/tuning.cc (hwLat, Ring, Simple)"
LINKS: Mapping[str, Link] = {
    "NVLink 4, NVSwitch": Link(
        450e9, 3.4e-6, f"NVIDIA H100 data sheet, 900 GB/s in both directions; {_NCCL}; a host has 8 GPUs on it"
    ),
    "InfiniBand NDR": Link(50e9, 9.6e-6, f"NVIDIA ConnectX-7 manual, 400 Gb/s, one adapter a GPU; {_NCCL}"),
    "100 GbE": Link(12.5e9, 30e-6, "IEEE 802.3, 100 Gb/s, one adapter a device; latency assumed, of TCP"),
    "TPU v5e ICI": Link(
        200e9, 1e-6, "Google Cloud's page of TPU v5e, 400 GB/s in both directions; latency assumed; a pod has 256 chips"
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Load:
    """What one model sends and reads.

    Attributes:
      parameters: all of them.
      trained: those that are not frozen.
      batch_size: clips of one device's step.
      clip_bytes: of a clip of `setup.ROW_S` seconds in the shards, or of `setup.ROW_TOKENS` tokens.
    """

    parameters: int
    trained: int
    batch_size: int
    clip_bytes: int

    @property
    def gradient_bytes(self) -> int:
        """Added up each step: float32, whatever the arithmetic."""
        return NUMBER_BYTES * self.trained

    def gathered_bytes(self, devices: int) -> int:
        """Of the batches of so many devices. Rows that lie on all devices in shares cost another all-reduce of them.

        Each device puts the rows that it holds into an array of the whole batch, zero elsewhere, and these are added
        up (`emoflax.data.rows.batch_of`). Streamed batches are made where they are needed.
        """
        return devices * self.batch_size * self.clip_bytes


def load_of(config: ConfigDict) -> Load:
    """Counted from the model's shapes, without making its weights; `setup.WORDS` words where it reads some."""
    model = nnx.eval_shape(lambda: build_model(config, setup.WORDS, setup.CLASSES, seed=0))
    leaves = jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))[0]
    sizes = {jax.tree_util.keystr(path, simple=True, separator="."): math.prod(leaf.shape) for path, leaf in leaves}
    freeze = config.optimizer.freeze
    trained = sum(size for path, size in sizes.items() if not optimizer.is_frozen(path, freeze))
    return Load(sum(sizes.values()), trained, config.train.batch_size, clip_bytes(config))


def clip_bytes(config: ConfigDict) -> int:
    """Of one clip in the shards: float32 log-mels, 16-bit samples, or int32 tokens."""
    tokens = NUMBER_BYTES * setup.ROW_TOKENS if config.model.text else 0
    if not config.model.audio:
        return tokens
    if config.data.store == "wave":
        return tokens + round(SAMPLE_BYTES * setup.ROW_S * config.audio.sample_rate_hz)
    frames = round(setup.ROW_S * 1000 / config.audio.hop_ms)
    return tokens + NUMBER_BYTES * frames * channels(config.audio)
