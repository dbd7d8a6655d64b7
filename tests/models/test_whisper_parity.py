"""EmoFlax's Whisper equals openai-whisper's: log-mel, encoder and every layer, from a real checkpoint file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_whisper
import torch
import whisper
from flax import nnx

from emoflax import pretrained
from emoflax.configs import default
from emoflax.errors import UserError, WeightsUnavailable
from emoflax.features import log_mel, whisper_mel
from emoflax.models.states import summarise
from emoflax.models.whisper import Whisper

SETTINGS = default.get_config().audio.to_dict() | {
    "frontend": "whisper", "window_ms": 25.0, "hop_ms": 10.0, "mels": 80, "fmin_hz": 0.0,
}  # fmt: skip


def sound(rng, samples, level=0.05):
    """Noise that swells and fades, with a burst somewhere."""
    swell = np.sin(np.linspace(0, 3, samples)) ** 2
    burst = rng.integers(samples)
    wave = level * swell * rng.normal(size=samples)
    wave[burst : burst + 400] *= 10
    return wave.astype(np.float32)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("level", [0.05, 1e-4])
@pytest.mark.parametrize("samples", [37, 16_000, 48_053, 479_999])
def test_log_mel_is_whispers_on_the_clip_and_silence_beyond_it(mels, samples, level):
    wave = sound(np.random.default_rng(), samples, level)
    theirs = whisper.log_mel_spectrogram(whisper.pad_or_trim(wave), mels).numpy().T
    ours = whisper_mel.log_mel(wave, mels=mels)
    assert ours.shape == (samples // 160 + 3, mels) and ours.dtype == np.float32
    frames = min(len(ours), 3000)
    silence = np.full((3000 - frames, mels), max(ours.max() - whisper_mel.RANGE, whisper_mel.LOWEST))
    # At the end of a full window of 30 s openai-whisper reflects the sound, where ours is followed by silence.
    compared = 3000 if samples < 479_000 else 2998
    assert relative_error(np.concatenate([ours[:frames], silence])[:compared], theirs[:compared]) < 1e-4


@pytest.mark.parametrize(("field", "value"), [("mels", 64), ("window_ms", 64.0), ("fmin_hz", 50.0)])
def test_the_front_end_refuses_settings_that_whisper_was_not_trained_on(field, value):
    log_mel.check_settings(**SETTINGS)
    with pytest.raises(UserError, match=f"--config.audio.{field} must be .* with audio.frontend='whisper'"):
        log_mel.check_settings(**SETTINGS | {field: value})


@pytest.fixture(scope="module", params=[80, 128])
def checkpoint(request, tmp_path_factory):
    """A checkpoint of two layers with new random weights."""
    seed = int(np.random.default_rng().integers(2**31))
    folder = tmp_path_factory.mktemp("weights")
    return tiny_whisper.write(folder / "a.pt", seed, n_mels=request.param, audio_layers=2, weight_scale=0.3)


def ours(path, **changes):
    fields = pretrained.fields("whisper", str(path))
    sizes = {name.removeprefix("model.whisper."): value for name, value in fields.items() if "model." in name}
    encoder = Whisper(fields["audio.mels"], **sizes | changes, dropout=0.0, rngs=nnx.Rngs(0))
    pretrained.load(encoder, "whisper", str(path))
    return encoder


def log_mels(lengths, mels, rng, level):
    """Log-mels of clips of these lengths in samples, padded with zeros, and their frames."""
    clips = [whisper_mel.log_mel(sound(rng, samples, level), mels=mels) for samples in lengths]
    batch = np.zeros((len(clips), max(map(len, clips)), mels), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    return jnp.asarray(batch), jnp.asarray([len(clip) for clip in clips])


@pytest.mark.parametrize("level", [0.05, 1e-4])
def test_the_encoder_and_each_of_its_layers_are_whispers_from_a_checkpoint_file(checkpoint, level):
    rng = np.random.default_rng()
    reference, encoder = whisper.load_model(str(checkpoint)).encoder, ours(checkpoint)
    samples = [int(n) for n in rng.integers(8_000, 60_000, size=2)]
    waves_rng = np.random.default_rng(7)
    logmel, frames = log_mels(samples, reference.conv1.in_channels, waves_rng, level)
    waves_rng = np.random.default_rng(7)
    padded = [whisper.pad_or_trim(sound(waves_rng, n, level)) for n in samples]
    theirs_in = torch.stack([whisper.log_mel_spectrogram(wave, reference.conv1.in_channels) for wave in padded])
    outputs = []
    reference.blocks[0].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    for block in (*reference.blocks, reference.ln_post):
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.no_grad():
        theirs = reference(theirs_in).numpy()
    sequence, mask, (states, _) = nnx.jit(lambda e, *x: (*e(*x), e.states(*x)))(encoder, logmel, frames)
    assert sequence.shape == theirs.shape and mask.sum(1).tolist() == [-(-int(n) // 2) for n in frames]
    layers = [*outputs[:2], outputs[3]]  # the last layer's, normalised
    for clip, steps in enumerate(mask.sum(1).tolist()):
        assert relative_error(sequence[clip, :steps], theirs[clip, :steps]) < 1e-4
        means = np.stack([layer[clip, :steps].mean(0).numpy() for layer in layers])
        for layer in range(3):
            assert relative_error(states[layer][clip, :steps].mean(0), means[layer]) < 1e-4


def test_three_thousand_frames_without_any_padding_are_whispers_too(checkpoint):
    reference, encoder = whisper.load_model(str(checkpoint)).encoder, ours(checkpoint, silence_s=0.0)
    logmel = np.random.default_rng().normal(size=(1, 3000, reference.conv1.in_channels)).astype(np.float32)
    with torch.no_grad():
        theirs = reference(torch.tensor(logmel.transpose(0, 2, 1))).numpy()
    sequence, mask = nnx.jit(lambda e, *x: e(*x))(encoder, jnp.asarray(logmel), jnp.asarray([3000]))
    assert mask.all() and relative_error(sequence, theirs) < 1e-4


@pytest.mark.parametrize("silence_s", [0.0, 0.1, 30.0])
def test_a_padded_batch_gives_the_same_sequence_and_states_as_each_clip_alone(silence_s):
    encoder = Whisper(5, width=8, layers=1, heads=2, dropout=0.1, silence_s=silence_s, rngs=nnx.Rngs(1))
    forward = nnx.jit(lambda e, *x: (*e(*x), summarise(*e.states(*x), parts=3)))
    lengths = [0, 1, 7, 48]
    clips = np.random.default_rng(0).normal(size=(len(lengths), 48, 5)).astype(np.float32)
    batch = np.where(np.arange(48)[None, :, None] < np.array(lengths)[:, None, None], clips, 0)
    together, mask, states = forward(encoder, jnp.asarray(batch), jnp.asarray(lengths))
    assert mask.sum(1).tolist() == [-(-n // 2) for n in lengths] and np.isfinite(together).all()
    for clip, n in enumerate(lengths[1:], start=1):
        alone, _, alone_states = forward(encoder, jnp.asarray(clips[clip : clip + 1, :n]), jnp.asarray([n]))
        steps = -(-n // 2)
        np.testing.assert_allclose(together[clip, :steps], alone[0, :steps], atol=1e-5)
        np.testing.assert_allclose(states[clip], alone_states[0], atol=1e-5)
        assert not np.any(together[clip, steps:])


def test_dropout_acts_with_a_key_only():
    encoder = Whisper(5, width=8, layers=1, heads=2, dropout=0.5, silence_s=0.0, rngs=nnx.Rngs(1))
    logmel, frames = jnp.ones((1, 8, 5)), jnp.asarray([8])
    forward = nnx.jit(lambda e, *x: e(*x)[0])
    one, other = (forward(encoder, logmel, frames, key) for key in jax.random.split(jax.random.key(0)))
    assert np.any(one != other)
    assert np.array_equal(forward(encoder, logmel, frames, None), forward(encoder, logmel, frames, None))


def test_more_than_30_s_and_an_odd_width_are_clear_errors():
    with pytest.raises(UserError, match="max_s"):
        encoder = Whisper(5, width=8, layers=1, heads=2, dropout=0.0, silence_s=0.0, rngs=nnx.Rngs(1))
        encoder(jnp.zeros((1, 3100, 5)), jnp.asarray([3100]))
    with pytest.raises(UserError, match="width=7"):
        Whisper(5, width=7, layers=1, heads=1, dropout=0.0, silence_s=0.0, rngs=nnx.Rngs(1))


def rewritten(path, folder, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["model_state_dict"])
    torch.save(checkpoint, folder / "changed.pt")
    return folder / "changed.pt"


def test_tensors_that_do_not_fit_are_all_named(checkpoint, tmp_path):
    def spoil(state):
        state["encoder.conv3.weight"] = torch.zeros(2)
        state["encoder.blocks.1.attn.key.weight"] = torch.zeros(3, 4)
        del state["encoder.ln_post.bias"]

    named = r"missing: ln_post\.bias.*not known: conv3\.weight.*of another shape: blocks\.1\.attn\.key\.weight"
    with pytest.raises(UserError, match=named):
        ours(rewritten(checkpoint, tmp_path, spoil))


def test_other_positions_than_sinusoids_are_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="sinusoids"):
        ours(rewritten(checkpoint, tmp_path, lambda state: state["encoder.positional_embedding"].add_(1)))


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.pt is incomplete"):
        pretrained.fields("whisper", str(tmp_path / "broken.pt"))


class Trap:
    def __reduce__(self):
        return print, ("a pickle was executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path, capsys):
    torch.save({"dims": {}, "model_state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match=r"trap\.pt"):
        pretrained.fields("whisper", str(tmp_path / "trap.pt"))
    assert "executed" not in capsys.readouterr().out


def test_published_weights_without_network_say_which_file_goes_where(monkeypatch, tmp_path):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=f"Put tiny.pt .*{tmp_path}"):
        pretrained.fields("whisper", "tiny")
    with pytest.raises(UserError, match="neither a file nor a Whisper model"):
        pretrained.fields("whisper", "whisper-giant")
