"""Test-time augmentation: which variants are averaged, whatever the padding. (Trained models: test_crossval.py.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emoflax.audio import test_time
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.errors import UserError
from emoflax.experiment.model import build_model

BANDS, CONTOURS = 8, 4


def batch_of(frames, width, seed=0):
    logmel = np.random.default_rng(seed).normal(-40, 10, (len(frames), width, BANDS + CONTOURS)).astype(np.float32)
    logmel[np.arange(width) >= np.array(frames)[:, None]] = 0
    return Batch(logmel=jnp.asarray(logmel), frames=jnp.asarray(frames, jnp.int32))


def inputs_of(augmentation, batch):
    """The model's input, (log-mel, frames) of each variant, as numpy."""
    inputs = []

    def logits_of(variant):
        jax.debug.callback(lambda *x: inputs.append(jax.tree.map(np.asarray, x)), variant.logmel, variant.frames)
        return jnp.zeros((len(variant.frames), 3))

    jax.block_until_ready(augmentation.log_probabilities(batch, logits_of))
    jax.effects_barrier()
    return inputs


def test_every_speed_is_combined_with_every_shift_and_contours_stay_in_their_channel():
    batch = batch_of([20, 9, 0], 24)
    variants = inputs_of(test_time.TestTimeAugmentation((1.0, 1.25), (0.0, 2.0), BANDS), batch)
    assert [frames.tolist() for _, frames in variants] == [[20, 9, 0]] * 2 + [[16, 7, 0]] * 2
    plain = np.asarray(batch.logmel)
    np.testing.assert_array_equal(variants[0][0], plain)
    higher = plain[..., np.minimum(np.arange(BANDS) + 2, BANDS - 1)]
    np.testing.assert_allclose(variants[1][0], np.concatenate([higher, plain[..., BANDS:]], -1), atol=1e-4)
    read = np.arange(16) * 1.25
    for channel in (0, BANDS):
        expected = np.interp(read, np.arange(20), plain[0, :20, channel])
        np.testing.assert_allclose(variants[2][0][0, :16, channel], expected, rtol=1e-4)
    assert all(not logmel[np.arange(24) >= frames[:, None]].any() for logmel, frames in variants)


def model_of(**fields):
    config = tiny.get_config()
    config.audio.mels = BANDS + CONTOURS
    config.update_from_flattened_dict(fields)
    return build_model(config, 0, 3, seed=0)


def test_padding_does_not_change_a_prediction_and_training_uses_the_clip_as_it_is():
    model = jax.jit(model_of(**{"evaluate.speeds": (0.8, 1.0), "evaluate.band_shifts": (-1.0, 0.0, 1.0)}))
    batch = batch_of([16, 5], 16)
    wide = batch.replace(logmel=jnp.pad(batch.logmel, ((0, 0), (0, 16), (0, 0))))
    np.testing.assert_allclose(model(wide), model(batch), rtol=1e-4, atol=1e-5)
    plain, key = jax.jit(model_of()), jax.random.key(1)
    np.testing.assert_allclose(model(batch, key), plain(batch, key), rtol=1e-6)
    assert not np.allclose(model(batch), jax.nn.log_softmax(plain(batch)), atol=1e-3)


@pytest.mark.parametrize(("field", "values"), [("speeds", ()), ("speeds", (3.0,)), ("band_shifts", (99.0,))])
def test_variants_out_of_range_are_refused(field, values):
    with pytest.raises(UserError, match=f"config.evaluate.{field}="):
        model_of(**{f"evaluate.{field}": values})
