"""wav2vec 2.0, HuBERT, WavLM and data2vec-audio equal those of `transformers`, with padding masked.

Weights and inputs are new random ones in every run. The weights come from a folder, as a user's do.
"""

import json

import hugging_face
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx
from hugging_face import relative_error

from emoflax import pretrained
from emoflax.audio.frontend import Samples
from emoflax.audio.wave_frames import WAVE_FRAME, wave_frames
from emoflax.batch import Batch
from emoflax.errors import UserError
from emoflax.models.states import summarise

LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
# Published kinds: base and large of each; a HuBERT of the first release has no normalisation before the projection.
KINDS = {
    "wav2vec2 base": ("wav2vec2", {}),
    "wav2vec2 large": ("wav2vec2", LARGE),
    "hubert base": ("hubert", {"feat_proj_layer_norm": False}),
    "hubert large": ("hubert", LARGE),
    "wavlm base": ("wavlm", {"num_buckets": 32, "max_bucket_distance": 20}),
    "wavlm large": ("wavlm", {**LARGE, "num_buckets": 32, "max_bucket_distance": 20}),
    "data2vec": ("data2vec_audio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
}
ALONE = 6_001
LENGTHS = [ALONE, 0, 400, 9_345, 57, 12_000]  # samples: nothing, a single step, less than a step among them


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """Theirs, ours, and the folder."""
    encoder, fields = KINDS[request.param]
    folder = tmp_path_factory.mktemp(encoder)
    normalise = "base" not in request.param  # both occur: WavLM's base takes waveforms as they are
    theirs = hugging_face.wave(folder, encoder, do_normalize=normalise, head=True, **fields)
    return theirs, pretrained.encoder_alone(encoder, str(folder)), folder


@pytest.fixture(scope="module")
def run():
    """Output, mask, and means of the states."""
    return nnx.jit(lambda encoder, *inputs: (*encoder(*inputs), summarise(*encoder.states(*inputs), parts=0)[:, :, 0]))


def waves(lengths=LENGTHS) -> np.ndarray:
    """Noise that swells and is off centre, [clips, samples, 1]: frames of one sample, so that lengths are exact."""
    rng = np.random.default_rng()
    noise = 0.1 * rng.normal(size=(len(lengths), max(lengths))) * np.linspace(0.1, 1, max(lengths)) + 0.05
    return np.where(np.arange(max(lengths))[None] < np.array(lengths)[:, None], noise, 0)[..., None].astype(np.float32)


def test_one_clip_gives_the_output_and_states_of_transformers(pair, run):
    theirs, ours, folder = pair
    wave = waves([ALONE])
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(wave[0, :, 0], sampling_rate=16_000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        output = theirs(values, output_hidden_states=True)
    h_BxSxD, mask_BxS, states_Bx3xD = run(ours, wave, np.array([ALONE]))
    assert mask_BxS.all() and relative_error(h_BxSxD, output.last_hidden_state) < 1e-4
    layers = [*output.hidden_states[:2], output.last_hidden_state]
    assert relative_error(states_Bx3xD[0], np.stack([layer[0].mean(0) for layer in layers])) < 1e-4


def test_a_batch_of_models_published_with_attention_masks_equals_that_of_transformers(pair, run):
    theirs, ours, folder = pair
    if theirs.config.model_type == "data2vec-audio" or theirs.config.feat_extract_norm == "group":
        return  # padding changes these models' published output: the next test says what ours is
    wave, long = waves(), [0, 3, 5]  # theirs takes no clip without a whole step
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder, return_attention_mask=True)
    clips = [wave[clip, : LENGTHS[clip], 0] for clip in long]
    with torch.no_grad():
        inputs = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
        wanted = theirs(**inputs).last_hidden_state.numpy()
    h_BxSxD, mask_BxS, _ = (np.asarray(output)[long] for output in run(ours, wave, np.array(LENGTHS)))
    assert mask_BxS.sum(1).tolist() == [1 + (len(clip) - 400) // 320 for clip in clips]
    assert relative_error(h_BxSxD, np.where(mask_BxS[..., None], wanted, 0)) < 1e-4


def test_a_padded_batch_gives_each_clips_own_output_and_states(pair, run):
    _, ours, _ = pair
    wave, lengths = waves(), np.array(LENGTHS)
    h_BxSxD, mask_BxS, states_Bx3xD = run(ours, wave, lengths)
    assert mask_BxS.sum(1).tolist() == [1 + max(0, length - 400) // 320 if length else 0 for length in LENGTHS]
    assert np.isfinite(states_Bx3xD).all() and not np.any(np.where(np.asarray(mask_BxS)[..., None], 0, h_BxSxD))
    for clip in (0, 4):  # without padding, and with less of it
        alone, mask, states = run(ours, wave[clip : clip + 1, :ALONE], lengths[clip : clip + 1])
        steps = int(mask.sum())
        assert relative_error(h_BxSxD[clip, :steps], alone[0, :steps]) < 1e-4
        assert relative_error(states_Bx3xD[clip], states[0]) < 1e-4


def test_gradients_reach_every_parameter(pair):
    _, ours, _ = pair
    wave, frames = waves([3_000, 2_000]), np.array([3_000, 2_000])
    graph, params = nnx.split(ours)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.square(nnx.merge(graph, p)(wave, frames, jax.random.key(1))[0]).sum())(params)

    for path, one in nnx.to_flat_state(gradient(params)):
        assert np.isfinite(one[...]).all(), path
        # A bias of the keys moves all scores of a query alike, and so no weight of the attention.
        assert "key" in path or np.any(one[...]), path


def test_steps_lie_in_the_middle_of_what_they_are_made_of(pair):
    _, ours, _ = pair
    assert ours.stem.span == 400 and ours.stem.stride == 320
    np.testing.assert_allclose(ours.centres(3) * WAVE_FRAME, [200, 520, 840])


def test_the_positions_kernel_is_read_by_its_old_names_and_whole(tmp_path):
    hugging_face.wave(tmp_path, "wavlm")
    wanted = jax.tree.map(np.asarray, nnx.state(pretrained.encoder_alone("wavlm", str(tmp_path)), nnx.Param))
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    old = {name.replace("parametrizations.weight.original0", "weight_g")
           .replace("parametrizations.weight.original1", "weight_v"): array
           for name, array in tensors.items()}  # fmt: skip
    assert old.keys() != tensors.keys()
    safetensors.numpy.save_file(old, path)
    jax.tree.map(
        np.testing.assert_array_equal, wanted, nnx.state(pretrained.encoder_alone("wavlm", str(tmp_path)), nnx.Param)
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"model_type": "hubert"}, "model_type='hubert' instead of 'wav2vec2'"),
        ({"add_adapter": True}, "add_adapter=True"),
        ({"conv_dim": None}, "has no field 'conv_dim'"),
    ],
)
def test_another_kind_of_model_is_one_sentence(tmp_path, spoil, words):
    hugging_face.wave(tmp_path, "wav2vec2")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | spoil
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    with pytest.raises(UserError, match=words):
        pretrained.fields("wav2vec2", str(tmp_path))


def test_how_waveforms_are_normalised_must_be_known(tmp_path):
    hugging_face.wave(tmp_path, "wav2vec2", do_normalize=False)
    assert pretrained.fields("wav2vec2", str(tmp_path))["model.wav2vec2.normalise"] is False
    path = tmp_path / "preprocessor_config.json"
    for content, words in (('{"do_normalize": true, "sampling_rate": 8000}', "16000 Hz"), ("[]", "is damaged")):
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            pretrained.fields("wav2vec2", str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"there is no .*preprocessor_config\.json .* whether waveforms are normalised"):
        pretrained.fields("wav2vec2", str(tmp_path))


def test_frames_on_the_device_are_those_of_a_clip_alone():
    rng, frontend = np.random.default_rng(), Samples()
    lengths, width = [1, 700, 2_000, 0], frontend.width(2_000, 4)
    wave, scale = np.zeros((4, width), np.int16), rng.uniform(1e-5, 1e-4, 4).astype(np.float32)
    for row, length in zip(wave, lengths, strict=True):
        row[:length] = rng.integers(-30_000, 30_000, length)
    made = frontend(Batch(wave=wave, samples=np.array(lengths), scale=scale))
    assert made.logmel.shape == (4, 8, WAVE_FRAME) and made.frames.tolist() == [1, 3, 7, 0] and made.wave is None
    for clip, length in enumerate(lengths):
        alone = frontend.alone(wave[clip, :length], scale[clip])
        np.testing.assert_array_equal(made.logmel[clip, : len(alone)], alone)
        np.testing.assert_array_equal(alone, wave_frames(wave[clip, :length] * scale[clip]))
        assert not np.any(made.logmel[clip, len(alone) :])
