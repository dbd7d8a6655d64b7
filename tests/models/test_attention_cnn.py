"""The temporal convolutional encoder, and the contours that may be its input beside the mel bands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emoflax.audio.augment import Augmentation
from emoflax.audio.channels import CONTOURS
from emoflax.batch import Batch
from emoflax.features.contours import contours
from emoflax.models.attention_cnn import AttentionCnn, TimeConv

RATE_HZ = 16_000


@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(3, 1, 1), (5, 2, 1), (3, 1, 2), (5, 3, 2)])
def test_the_product_of_neighbours_is_the_convolution(kernel, dilation, stride):
    conv = TimeConv(3, 5, kernel=kernel, dilation=dilation, stride=stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 14, 3))
    weight = conv.product.kernel[...].reshape(kernel, 3, 5)
    reach = kernel // 2 * dilation
    expected = jax.lax.conv_general_dilated(
        x, weight, (stride,), [(reach, reach)], rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)


def test_nothing_beyond_a_clips_end_changes_its_output():
    encoder = AttentionCnn(
        7, width=8, kernel=3, stem_kernel=5, stride=2, dilations=(1, 2), dropout=0.5, rngs=nnx.Rngs(0)
    )
    x = jax.random.normal(jax.random.key(0), (1, 11, 7))
    alone, mask = encoder(x, jnp.array([11]))
    padded, padded_mask = encoder(jnp.pad(x, ((0, 0), (0, 13), (0, 0))), jnp.array([11]))
    assert mask.sum() == padded_mask.sum() == 6
    np.testing.assert_allclose(alone[0, :6], padded[0, :6], atol=1e-6)


def glide(seconds: float, start_hz: float, end_hz: float) -> np.ndarray:
    """A voice-like tone, ten harmonics, whose pitch rises or falls evenly on a logarithmic scale."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(start_hz * (end_hz / start_hz) ** (time / seconds)) / RATE_HZ
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 11))).astype(np.float32)


@pytest.mark.parametrize(("start_hz", "end_hz"), [(110.0, 220.0), (300.0, 200.0)])
def test_the_pitch_contour_follows_a_glide(start_hz, end_hz):
    hop_ms, wave = 32.0, glide(1.0, start_hz, end_hz)
    frames = 1 + len(wave) // 512
    of_clip = contours(wave, RATE_HZ, hop_ms, frames)
    assert of_clip.shape == (frames, len(CONTOURS)) and np.isfinite(of_clip).all()
    semitones = of_clip[:, CONTOURS.index("semitones")]
    middle = np.arange(frames) * hop_ms / 1000
    expected = 12 * np.log2(start_hz * (end_hz / start_hz) ** middle / 27.5)
    inner = slice(3, -3)
    np.testing.assert_allclose(semitones[inner], expected[inner], atol=0.5)
    assert of_clip[inner, CONTOURS.index("voiced")].min() == 1


def test_pitch_is_interpolated_through_unvoiced_frames():
    noise = np.random.default_rng(0).normal(0, 0.02, RATE_HZ // 4).astype(np.float32)
    wave = np.concatenate([glide(0.4, 150, 150), noise, glide(0.4, 200, 200)])
    of_clip = contours(wave, RATE_HZ, 32.0, 1 + len(wave) // 512)
    voiced, semitones = (of_clip[:, CONTOURS.index(name)] for name in ("voiced", "semitones"))
    low, high = (12 * np.log2(hz / 27.5) for hz in (150, 200))
    assert voiced.min() < 0.5
    assert (semitones > low - 0.7).all() and (semitones < high + 0.7).all()


def test_sound_without_a_voice_has_finite_contours():
    noise = np.random.default_rng(0).normal(0, 0.1, 900).astype(np.float32)
    assert np.isfinite(contours(noise, RATE_HZ, 32.0, 2)).all()


def test_augmentation_changes_contours_and_mels_separately():
    bands, x = 6, jax.random.normal(jax.random.key(0), (4, 8, 9))
    batch = Batch(logmel=x, frames=jnp.full(4, 8), target=jnp.eye(4), weight=jnp.ones(4))
    mean, std = jnp.arange(9.0), jnp.ones(9)
    louder = jax.jit(Augmentation(gain_db=5, band_masks=2, bands=bands))(jax.random.key(1), batch, mean, std).logmel
    np.testing.assert_array_equal(louder[..., bands:], x[..., bands:])
    assert not jnp.allclose(louder[..., :bands], x[..., :bands])
    moved = jax.jit(Augmentation(contour_shift=0.5, bands=bands))(jax.random.key(1), batch, mean, std).logmel
    np.testing.assert_array_equal(moved[..., :bands], x[..., :bands])
    shift = moved[..., bands:] - x[..., bands:]
    np.testing.assert_allclose(shift, jnp.broadcast_to(shift[:, :1], shift.shape), atol=1e-6)  # one for the whole clip
    assert len(jnp.unique(shift.round(4))) >= 12
    gone = jax.jit(Augmentation(contour_drop=1.0, bands=bands))(jax.random.key(1), batch, mean, std).logmel
    np.testing.assert_array_equal(gone[..., bands:], jnp.broadcast_to(mean[bands:], (4, 8, 3)))
