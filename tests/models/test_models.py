"""What every model must do, whatever its encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax import models
from emoflax.batch import Batch
from emoflax.configs import default
from emoflax.errors import UserError

MELS, CLASSES, WORDS = 16, 7, 23
LENGTHS = [(1, 1), (31, 11)]  # in frames and tokens; few, because each is compiled
ONE_MISSING = [(0, 11), (31, 0)]
SMALL = {
    "ast": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "patch": 8, "stride": 5, "max_frames": 48},
    "attention_cnn": {"width": 8, "dilations": (1, 2)},
    "cnn": {"channels": (3, 5)},
    "whisper": {"width": 8, "layers": 1, "heads": 2, "silence_s": 0.0},
    "wavlm": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "channels": (4,) * 7, "positions": (6, 2, 1),
              "extractor_norm": "group", "buckets": 8, "distance": 8},
    "data2vec_audio": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "channels": (4,) * 7, "positions": (3, 2, 2)},
    "bert": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "positions": 16},
    "gru": {"embedding": 7, "hidden": 4},
    "attention": {"heads": 2, "hidden": 3},
    "early": {"width": 8, "layers": 1, "heads": 2},
    "hybrid": {"width": 8, "heads": 2},
}  # fmt: skip


def build(audio="", text="", pooling="mean_max", fusion="concat", head=11, **settings):
    model = default.get_config().model
    model.update(audio=audio, text=text, pooling=pooling, fusion=fusion, head=head)
    for name, fields in SMALL.items():
        model[name].update(fields)
    for name, fields in settings.items():
        model[name].update(fields)
    return models.build(model.to_dict(), mels=MELS, vocabulary=WORDS, classes=CLASSES, dtype="float32", seed=3)


# Every encoder, pooling and fusion at least once. test_fusion.py has all pairs of fusion and pooling; these tests show
# that what an encoder returns for a clip depends on that clip alone.
MODELS = [
    {"audio": "cnn", "cnn": {"channels": (3, 5, 7)}, "head": 0, "pooling": "mean"},
    {"audio": "cnn", "pooling": "mean_std", "head": 0},
    {"text": "gru", "pooling": "attention"},
    {"audio": "cnn", "text": "gru"},
    {"audio": "cnn", "text": "gru", "fusion": "gated", "pooling": "mean"},
    {"audio": "ast", "text": "bert", "fusion": "early", "pooling": "attention"},
    {"audio": "attention_cnn", "text": "bert", "fusion": "late"},
    {"audio": "whisper", "text": "gru", "fusion": "hybrid", "pooling": "attention"},
    {"audio": "wavlm", "pooling": "attention"},
    {"audio": "data2vec_audio"},
]


def test_every_encoder_pooling_and_fusion_of_the_registry_is_tested_here():
    kinds = {"audio": models.AUDIO_ENCODERS, "text": models.TEXT_ENCODERS, "pooling": models.POOLINGS,
             "fusion": models.FUSIONS}  # fmt: skip
    usual = {"audio": "", "text": "", "pooling": "mean_max", "fusion": "concat"}
    for kind, registry in kinds.items():
        names = {(usual | options)[kind] for options in MODELS} & set(registry)
        assert {registry[name] for name in names} == set(registry.values())


def batch_of(frames, tokens, rng):
    """Clips of these lengths, padded to 48 frames and 16 tokens."""
    n = len(frames)
    return Batch(
        logmel=jnp.asarray(rng.normal(-40, 15, (n, 48, MELS)), jnp.float32),
        frames=jnp.asarray(frames, jnp.int32),
        tokens=jnp.asarray(rng.integers(1, WORDS, (n, 16)), jnp.int32),
        n_tokens=jnp.asarray(tokens, jnp.int32),
    )


def cut(batch, clip):
    """One clip without its padding; one that lacks a modality keeps as much of it as LENGTHS has with the other."""
    n, words = int(batch.frames[clip]), int(batch.n_tokens[clip])
    n, words = next((f, t) for f, t in LENGTHS if (n or f, words or t) == (f, t))
    alone = batch.replace(logmel=batch.logmel[:, :n], tokens=batch.tokens[:, :words])
    return jax.tree.map(lambda array: array[clip][None], alone)


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_a_padded_batch_gives_the_same_logits_as_each_clip_alone(options):
    forward = jax.jit(build(**options))
    lengths = LENGTHS + (ONE_MISSING if {"audio", "text"} <= set(options) else [])

    @settings(max_examples=6, deadline=None)
    @given(st.lists(st.sampled_from(lengths), min_size=3, max_size=3), st.integers(0, 99))
    def holds(lengths, seed):
        batch = batch_of(*zip(*lengths, strict=True), np.random.default_rng(seed))
        together = forward(batch)
        for clip in range(len(lengths)):
            np.testing.assert_allclose(together[clip], forward(cut(batch, clip))[0], rtol=1e-4, atol=1e-4)

    holds()


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_nothing_beyond_a_clips_end_reaches_logits_or_gradients(options):
    model = build(**options)
    both = "audio" in options and "text" in options
    batch = batch_of([5, 30, 48, 0 if both else 7], [3, 16, 0 if both else 1, 8], np.random.default_rng(0))
    beyond = jnp.arange(48)[None, :, None] >= batch.frames[:, None, None]
    garbage = batch.replace(
        logmel=jnp.where(beyond, jnp.nan, batch.logmel),
        tokens=jnp.where(jnp.arange(16)[None] >= batch.n_tokens[:, None], 5, batch.tokens),
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        return jnp.sum(jnp.square(nnx.merge(graph, params, rest, copy=True)(batch)))

    step = jax.jit(jax.value_and_grad(loss))
    for a, b in zip(*(jax.tree.leaves(step(params, x)) for x in (batch, garbage)), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [options for options in MODELS if {"audio", "text"} <= set(options)], ids=str)
def test_dropout_is_a_function_of_the_key(options):
    model = jax.jit(build(**options))
    batch = batch_of([48, 31, 9], [16, 11, 2], np.random.default_rng(0))
    one, same, other = (model(batch, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_bfloat16_arithmetic_keeps_float32_weights_and_logits():
    config = default.get_config().model
    config.audio, config.cnn.channels = "cnn", (3, 5)
    half, full = (
        models.build(config.to_dict(), mels=MELS, vocabulary=WORDS, classes=CLASSES, dtype=dtype, seed=3)
        for dtype in ("bfloat16", "float32")
    )
    batch = batch_of([48, 31], [16, 9], np.random.default_rng(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    assert half(batch).dtype == jnp.float32
    np.testing.assert_allclose(half(batch), full(batch), atol=0.02 * float(jnp.abs(full(batch)).max()))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"audio": "resnet"}, "registry"), ({}, "no encoder at all"), ({"audio": "cnn", "pooling": "median"}, "mean_max"),
     ({"audio": "cnn", "cnn": {"channels": (1, 1, 1, 1, 1)}}, "multiple of 32")],
)  # fmt: skip
def test_a_model_that_cannot_be_built_is_refused_with_what_is_allowed(options, words):
    with pytest.raises(UserError, match=words):
        build(**options)
