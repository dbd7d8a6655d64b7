"""What both contestants start from: one model, random clips of typical lengths, the settings of one train step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from emoflax.audio.augment import Augmentation
from emoflax.audio.channels import channels
from emoflax.batch import Batch
from emoflax.data import dataset as data
from emoflax.data.dataset import Bucket
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.parallel import mesh as devices
from emoflax.training.step import TrainConfig, TrainState

CLASSES = 8
WORDS = 2_000
ROW_S = 3.0  # of sound in the longest clip
ROW_TOKENS = 32
MEAN_DB, STD_DB = -40.0, 15.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """`config` without what PyTorch's side does not do: learning rate schedule, weight averaging, augmentation.

    On a processor, our side shards its batches over the devices into which the cores are split. On accelerators both
    sides use one; so does the prediction of one clip.
    """

    config: ConfigDict
    model: nnx.Module
    train_config: TrainConfig
    mesh: Mesh | None

    def state(self) -> TrainState:
        """A copy, because a program that its arguments are donated to would delete the model's own arrays."""
        return devices.replicate(jax.tree.map(jnp.copy, self.train_config.init(self.model, 0)), self.mesh)

    def bucket(self, rows: int, batch_size: int) -> Bucket:
        """Random clips, the longest ROW_S or ROW_TOKENS long, the shortest half of that."""
        rng = np.random.default_rng(0)
        logmels = [
            rng.normal(MEAN_DB, STD_DB, (n, channels(self.config.audio))).astype(np.float32)
            for n in _lengths(rng, rows, self.frames)
        ]
        tokens = [rng.integers(1, WORDS + 2, n, np.int32) for n in _lengths(rng, rows, ROW_TOKENS)]
        return self.dataset(logmels, tokens, rng.integers(0, CLASSES, rows), batch_size).buckets[0]

    def dataset(self, logmels: list, tokens: list, labels: np.ndarray, batch_size: int) -> data.Dataset:
        """Rows in one bucket; a modality that the model does not use is left out."""
        return data.from_arrays(
            logmels if self.config.model.audio else None,
            tokens if self.config.model.text else None,
            labels.astype(np.int32),
            max_frames=self.frames,
            max_tokens=ROW_TOKENS,
            batch_size=batch_size,
            buckets=1,
            mesh=self.mesh,
        )

    @property
    def frames(self) -> int:
        return round(ROW_S * 1000 / self.config.audio.hop_ms)


def prepare(config: ConfigDict, *, dropout: bool = True) -> Setup:
    """The config's model, freshly initialised; dropout=False: what it computes can be compared with PyTorch's."""
    config = config.copy_and_resolve_references()
    config.optimizer.update(schedule="constant", warmup_epochs=0.0)
    config.train.ema = 0.0
    if not dropout:
        config.model.dropout = config.model.gru.dropout = config.model.gru.token_dropout = 0.0
        config.model.attention_cnn.dropout = 0.0
    model = build_model(config, WORDS, CLASSES, seed=0)
    if config.model.audio:
        model.normalise.mean[...] = jnp.full(channels(config.audio), MEAN_DB)
        model.normalise.std[...] = jnp.full(channels(config.audio), STD_DB)
    train_config = train_config_of(config, model, steps_per_epoch=1)
    mesh = devices.all_devices() if jax.default_backend() == "cpu" else None
    step = dataclasses.replace(train_config.step, augmentation=Augmentation())
    numbers = dataclasses.replace(train_config.numbers, augmentation={})
    return Setup(config, model, TrainConfig(step, numbers), mesh)


def first_batch(bucket: Bucket) -> Batch:
    return jax.tree.map(lambda rows: rows[: bucket.batch_size], bucket.rows)


def _lengths(rng: np.random.Generator, rows: int, longest: int) -> np.ndarray:
    lengths = rng.integers(longest // 2, longest + 1, rows)
    lengths[0] = longest
    return lengths
