"""What each augmentation of waveforms promises, alone, with the log-mels made after it, and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emoflax.audio import augment_wave
from emoflax.audio.augment import Augmentation
from emoflax.audio.augment_wave import WaveAugmentation
from emoflax.audio.frontend import LogMel
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.data import dataset as data
from emoflax.errors import UserError
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of, wave_augmentation_of
from emoflax.training import loop as train

RATE_HZ, WIDTH = 16_000, 12_288
SAMPLES = np.array([9_000, 12_000, 4_001, 0], np.int32)
STRENGTHS = {
    "crop": 0.3, "speed": 0.2, "pitch_semitones": 3.0, "room": 1.0, "noise": 1.0, "gain_db": 6.0, "polarity": 0.5,
    "babble": 1.0, "band": 1.0,
}  # fmt: skip


def rows(waves):
    """Padded waveforms as a batch."""
    padded = np.stack([np.pad(wave, (0, WIDTH - len(wave))) for wave in waves])
    lengths = jnp.asarray([len(wave) for wave in waves], jnp.int32)
    return Batch(wave=jnp.asarray(padded), samples=lengths, scale=jnp.full(len(waves), 1 / 32768, jnp.float32))


def tone(hz, samples):
    return np.sin(2 * np.pi * hz * np.arange(samples) / RATE_HZ).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rows([rng.normal(0, 3000, n).astype(np.int16) for n in SAMPLES]).replace(label=jnp.arange(4))


def augmented(batch, *seeds, **strengths):
    """[seeds, batch, ...], as numpy arrays."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    program = jax.jit(jax.vmap(WaveAugmentation(**strengths), (0, None)))
    return jax.tree.map(np.asarray, program(keys, batch))


def test_off_is_the_identity_and_log_mels_pass(batch):
    assert WaveAugmentation()(jax.random.key(0), batch) is batch
    logmels = Batch(logmel=jnp.zeros((1, 2, 3)))
    assert WaveAugmentation(**STRENGTHS)(jax.random.key(0), logmels) is logmels


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_is_a_function_of_its_key_and_changes_only_what_it_may(batch, name):
    found = augmented(batch, 0, 0, 1, **{name: STRENGTHS[name]})
    assert all(np.array_equal(values[0], values[1]) for values in jax.tree.leaves(found))
    before = np.asarray(batch.wave, np.float32) / 32768
    assert not np.array_equal(found.wave[0] * found.scale[0][:, None], before)
    assert not np.array_equal(found.wave[0], found.wave[2])
    assert np.isfinite(found.wave).all()
    assert not found.wave[np.arange(WIDTH) >= found.samples[..., None]].any()
    assert np.all((found.samples > 0) == (SAMPLES > 0)) and np.array_equal(found.label[0], batch.label)
    if name not in ("crop", "speed", "pitch_semitones"):
        assert np.array_equal(found.samples[0], SAMPLES)
    assert (found.tempo is not None) == (name == "pitch_semitones")


def test_crop_takes_a_part_as_it_is_and_speed_reads_a_tone_faster():
    x = jnp.asarray(np.stack([np.pad(tone(1000, 8000), (0, 288))] * 3))
    u = jnp.asarray([[1, 0.5], [0, 0], [0, 0]], jnp.float32)
    found, samples = augment_wave.resample(u, x, jnp.full(3, 8000), crop=0.5, rate_B=jnp.array([1, 1.25, 0.5]))
    assert samples.tolist() == [4000, 6400, 8288]
    np.testing.assert_allclose(found[0, :4000], x[0, 2000:6000], atol=1e-6)
    np.testing.assert_allclose(found[1, 2:6398], tone(1250, 6400)[2:6398], atol=0.01)
    np.testing.assert_allclose(found[2, 2:8286], tone(500, 8288)[2:8286], atol=0.01)


def test_noise_comes_at_the_drawn_ratio_and_colour():
    normal = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4097)), jnp.float32)
    noise = augment_wave.coloured(normal, jnp.array([0.0, 0.5, 1.0]), 8192)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = np.stack([power[:, 1 << k : 2 << k].mean(1) for k in range(5, 12)], 1)
    slope_db = np.polyfit(np.arange(7), 10 * np.log10(octaves.T), 1)[0]
    np.testing.assert_allclose(slope_db, [0, -1.5, -3.0], atol=0.3)

    x, samples = jnp.asarray(np.stack([tone(440, 8192)] * 3)) * 0.1, jnp.array([8192, 5000, 8192])
    x = augment_wave.inside(x, samples)
    found = augment_wave.add(x, noise, samples, jnp.array([0.0, 10.0, 30.0]))
    added = np.asarray(found - x, np.float64)
    np.testing.assert_allclose(10 * np.log10((np.asarray(x) ** 2).sum(1) / (added**2).sum(1)), [0, 10, 30], atol=0.05)
    assert not added[1, 5000:].any()


def test_a_room_rings_for_its_reverberation_time_under_its_direct_sound():
    noise = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8000)), jnp.float32)
    rt60 = np.array([2000.0, 6000.0])
    response = np.asarray(augment_wave.room_response(noise, jnp.asarray(rt60, jnp.float32), jnp.array([0.0, 10.0])))
    power = response**2
    np.testing.assert_allclose(power.sum(1), 1, rtol=1e-4)
    np.testing.assert_allclose(10 * np.log10(power[:, 0] / power[:, 1:].sum(1)), [0, 10], atol=0.01)
    for row in range(2):
        blocks = 10 * np.log10(power[row, 1:2001].reshape(20, 100).mean(1))
        per_block_db = np.polyfit(np.arange(20), blocks, 1)[0]
        assert -60 / per_block_db * 100 == pytest.approx(rt60[row], rel=0.1)


def test_reverberation_is_a_convolution_cut_at_the_clips_end():
    rng = np.random.default_rng(3)
    x, response = rng.normal(size=(1, 500)), rng.normal(size=(1, 70))
    x[:, 400:] = 0
    found = augment_wave.reverberate(jnp.asarray(x, jnp.float32), jnp.asarray(response, jnp.float32), jnp.array([400]))
    np.testing.assert_allclose(found[0, :400], np.convolve(x[0], response[0])[:400], atol=1e-3)
    assert not found[0, 400:].any()


def test_gain_and_polarity_scale_a_clip_and_nothing_else(batch):
    found = augmented(batch, *range(6), gain_db=6.0, polarity=0.5).wave[:, :3]
    before = np.asarray(batch.wave, np.float32)[:3] / 32768
    factor = (found * before).sum(-1) / (before**2).sum(-1)
    np.testing.assert_allclose(found, factor[..., None] * before, atol=1e-6)
    assert np.all(np.abs(20 * np.log10(np.abs(factor))) <= 6) and 4 < (factor < 0).sum() < 14


def test_a_shift_of_pitch_moves_the_spectrum_and_keeps_the_tempo():
    frontend = LogMel(RATE_HZ, 64.0, 16.0, 64, 50.0, 8000.0)
    width = frontend.width(WIDTH, 8)
    wave = np.pad(tone(1500, 8000), (0, width - 8000))
    batch = Batch(wave=jnp.asarray(wave[None]), samples=jnp.array([8000]), scale=jnp.ones(1))
    shift = WaveAugmentation(pitch_semitones=6.0)

    @jax.jit
    def run(key):
        shifted = shift(key, batch)
        return shifted.tempo, Augmentation()(key, frontend(shifted), None)

    plain = frontend(batch)
    for seed in range(4):
        tempo, found = run(jax.random.key(seed))
        assert found.tempo is None
        assert abs(int(found.frames[0]) - int(plain.frames[0])) <= 2
        before, after = (int(part.logmel[0, 10].argmax()) for part in (plain, found))
        # Above 1 kHz, bands are evenly spaced on a logarithmic scale.
        per_band = np.log(6.4) / 27 * (np.log(8) * 27 / np.log(6.4) + 15 - 0.75) / 65
        assert (after - before) * per_band == pytest.approx(np.log(float(tempo[0])), abs=1.01 * per_band)


def test_waveform_augmentation_of_stored_log_mels_is_refused():
    config = tiny.get_config()
    config.augment.wave.noise = 0.5
    with pytest.raises(UserError, match=r"data\.store='wave'"):
        wave_augmentation_of(config)
    with pytest.raises(UserError, match=r"wave\.noise_snr_db=.* lower one first"):
        WaveAugmentation(noise_snr_db=(9.0, 3.0))


def test_training_on_waveforms_with_everything_on_is_finite_and_resumes_exactly():
    config = tiny.get_config()
    config.data.store, config.audio.mels = "wave", 8
    config.augment.update(vtlp=0.1, mixup=0.4, time_masks=1)
    config.augment.wave.update(STRENGTHS)
    rng = np.random.default_rng(5)
    waves = [rng.normal(0, 3000, n).astype(np.int16) for n in rng.integers(3000, 9000, 12)]
    model = build_model(config, 0, 2, seed=0)
    labels = np.arange(12, dtype=np.int32) % 2
    options = {"max_frames": 99, "max_tokens": 1, "batch_size": 4, "buckets": 1, "frontend": model.frontend}
    dataset = data.from_arrays(waves, None, labels, scales=np.full(12, 1e-4, np.float32), **options)
    train_config = train_config_of(config, model, 3)

    def run(*parts):
        state = train_config.init(build_model(config, 0, 2, seed=0), 0)
        for epochs in parts:
            state = train.fit(train_config, state, dataset, epochs=epochs, after_epoch=lambda *_: None)
        return jax.tree.leaves(state.params)

    whole, halves = run(2), run(1, 2)
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(whole, halves, strict=True))


def test_babble_is_other_clips_as_far_under_the_clip_as_asked_for(batch):
    found = augmented(batch, 0, babble=1.0, babble_snr_db=(10.0, 10.0))
    clean = np.asarray(batch.wave) / 32768
    added = found.wave[0] - clean
    for row in range(3):
        assert 10 * np.log10(np.square(clean[row]).sum() / np.square(added[row]).sum()) == pytest.approx(10, abs=0.01)
    others = np.asarray(augment_wave.voices(jnp.asarray(clean, jnp.float32)))[0, : SAMPLES[0]]
    assert np.corrcoef(others, added[0, : SAMPLES[0]])[0, 1] > 0.999
    assert not found.wave[0][3].any()


def test_a_limited_band_loses_what_is_above_its_top_and_nothing_under_it(batch):
    found = augmented(batch, 0, 1, 2, 3, band=1.0, band_top_hz=(4_000.0, 4_000.0)).wave
    hz, telephones = np.fft.rfftfreq(SAMPLES[1], 1 / RATE_HZ), 0
    for wave in found[:, 1, : SAMPLES[1]]:
        power = np.abs(np.fft.rfft(wave)) ** 2
        before = np.abs(np.fft.rfft(np.asarray(batch.wave[1, : SAMPLES[1]]) / 32768)) ** 2
        assert power[hz > 4_200].sum() < 0.01 * before[hz > 4_200].sum()
        kept = (hz > 500) & (hz < 3_800)
        assert power[kept].sum() == pytest.approx(before[kept].sum(), rel=0.02)
        telephones += power[hz < 150].sum() < 0.1 * before[hz < 150].sum()
    assert 0 < telephones < 4
