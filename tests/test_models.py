"""What every model must do, whatever its encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import default
from emoflax import models
from emoflax.errors import UserError

MELS, CLASSES, WORDS = 16, 7, 23
# Few lengths, because each is compiled: around pooling windows, odd, prime, full.
FRAMES, TOKENS = st.sampled_from([1, 7, 8, 9, 31, 48]), st.sampled_from([1, 2, 11, 16])


def build(audio="", text="", pooling="mean_max", channels=(3, 5), head=11):
    model = default.get_config().model
    model.audio, model.text, model.pooling, model.head = audio, text, pooling, head
    model.cnn.channels = channels
    model.gru.embedding, model.gru.hidden = 7, 5
    return models.build(model.to_dict(), mels=MELS, vocabulary=WORDS, classes=CLASSES, dtype="float32", seed=3)


MODELS = [
    {"audio": "cnn", "channels": (3,)},
    {"audio": "cnn", "channels": (3, 5, 7), "head": 0},
    {"audio": "cnn", "pooling": "mean"},
    {"text": "gru"},
    {"text": "gru", "pooling": "mean"},
    {"audio": "cnn", "text": "gru"},
]


def batch_of(frames, tokens, rng):
    """Clips of these lengths, padded to 48 frames and 16 tokens."""
    n = len(frames)
    return {
        "logmel": jnp.asarray(rng.normal(-40, 15, (n, 48, MELS)), jnp.float32),
        "frames": jnp.asarray(frames, jnp.int32),
        "tokens": jnp.asarray(rng.integers(1, WORDS, (n, 16)), jnp.int32),
        "n_tokens": jnp.asarray(tokens, jnp.int32),
    }


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_a_padded_batch_gives_the_same_logits_as_each_clip_alone(options):
    model = build(**options)
    forward = jax.jit(model)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.tuples(FRAMES, TOKENS), min_size=3, max_size=3), st.integers(0, 99))
    def holds(lengths, seed):
        frames, tokens = zip(*lengths, strict=True)
        batch = batch_of(frames, tokens, np.random.default_rng(seed))
        together = forward(batch)
        for i, (n, words) in enumerate(lengths):
            alone = {
                "logmel": batch["logmel"][i : i + 1, :n], "frames": batch["frames"][i : i + 1],
                "tokens": batch["tokens"][i : i + 1, :words], "n_tokens": batch["n_tokens"][i : i + 1],
            }  # fmt: skip
            np.testing.assert_allclose(together[i], forward(alone)[0], rtol=1e-4, atol=1e-4)

    holds()


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_what_lies_beyond_a_clips_end_never_reaches_logits_or_gradients(options):
    model = build(**options)
    batch = batch_of([5, 30, 48], [3, 16, 1], np.random.default_rng(0))
    garbage = dict(batch)
    beyond = jnp.arange(48)[None, :, None] >= batch["frames"][:, None, None]
    garbage["logmel"] = jnp.where(beyond, jnp.nan, batch["logmel"])
    garbage["tokens"] = jnp.where(jnp.arange(16)[None] >= batch["n_tokens"][:, None], 5, batch["tokens"])
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def loss(params, batch):
        return jnp.sum(jnp.square(nnx.merge(graph, params, rest, copy=True)(batch)))

    for a, b in zip(
        *(jax.tree.leaves(jax.value_and_grad(loss)(params, x)) for x in (batch, garbage)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_dropout_is_a_function_of_the_key_and_off_without_one(options):
    model = build(**options)
    batch = batch_of([48, 31], [16, 9], np.random.default_rng(0))
    one, same, other = (model(batch, jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(model(batch), model(batch))


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
    [({"audio": "resnet"}, "registry"), ({}, "neither"), ({"audio": "cnn", "pooling": "median"}, "mean_max"),
     ({"audio": "cnn", "channels": (1, 1, 1, 1, 1)}, "multiple of 32")],
)  # fmt: skip
def test_a_model_that_cannot_be_built_says_what_is_allowed(options, words):
    with pytest.raises(UserError, match=words):
        build(**options)
