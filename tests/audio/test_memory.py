"""Memory of what runs on the device grows with the length of clips, not with its square."""

import jax
import jax.numpy as jnp
import pytest

from emoflax.audio import test_time
from emoflax.audio.augment import Augmentation
from emoflax.audio.pcen import Pcen
from emoflax.batch import Batch

CLIPS, BANDS = 4, 16


def augmented(batch):
    return Augmentation(crop=0.2, stretch=0.2)(jax.random.key(0), batch, jnp.zeros(BANDS)).logmel


def averaged(batch):
    variants = test_time.TestTimeAugmentation((0.9, 1.0, 1.1), (0.0, 1.0))
    return variants.log_probabilities(batch, lambda variant: variant.logmel.sum(1)[:, :3])


def compressed(batch):
    return Pcen(bands=BANDS, hop_ms=16.0, time_s=0.3, gain=0.9, bias=2.0, root=0.4)(batch.logmel)


def bytes_of(program, frames):
    """Temporary buffers and constants of the compiled program."""
    batch = Batch(logmel=jnp.zeros((CLIPS, frames, BANDS)), frames=jnp.full(CLIPS, frames))
    traced = jax.jit(program).trace(batch)
    constants = sum(value.size * value.dtype.itemsize for value in traced.jaxpr.consts)
    return traced.lower().compile().memory_analysis().temp_size_in_bytes + constants


@pytest.mark.parametrize("program", [augmented, averaged, compressed])
def test_four_times_the_frames_take_at_most_four_times_the_memory(program):
    short, long = bytes_of(program, 1000), bytes_of(program, 4000)
    assert long <= 4 * short + 2**16
