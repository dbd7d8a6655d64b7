"""Fusion of sound and words: padding and missing modalities, in every fusion with every pooling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax import models
from emoflax.batch import Batch
from emoflax.configs import default
from emoflax.data import dataset as data
from emoflax.errors import UserError
from emoflax.masks import valid
from emoflax.models import FUSIONS, POOLINGS
from emoflax.models.classifier import Head

CLASSES = 5
WIDTHS = {"audio": 6, "text": 4}
STEPS = {"audio": 7, "text": 5}
SETTINGS = {
    "early": {"width": 8, "layers": 1, "heads": 2, "dropout": 0.1},
    "late": {"combine": "logits"},
    "hybrid": {"width": 8, "heads": 2, "dropout": 0.1},
    "attention": {"heads": 2, "hidden": 3},
}
VARIANTS = [*FUSIONS, "late of probabilities"]


def build(fusion, pooling="attention"):
    options = {"dtype": jnp.float32, "rngs": nnx.Rngs(1)}
    own = SETTINGS.get(fusion, {"combine": "probabilities"} if " " in fusion else {})
    return FUSIONS[fusion.split()[0]](
        WIDTHS,
        **own,
        pooling=functools.partial(POOLINGS[pooling], **SETTINGS.get(pooling, {}), **options),
        head=functools.partial(Head, hidden=0, dropout=0.2, classes=CLASSES, **options),
        **options,
    )


def streams_of(lengths, seed=0, garbage=3.0):
    """Sequences of these (audio, text) lengths; `garbage` times a normal number beyond them."""
    rng = np.random.default_rng(seed)
    streams = {}
    for (name, steps), length in zip(STEPS.items(), zip(*lengths, strict=True), strict=True):
        mask = valid(jnp.asarray(length), steps)
        x = jnp.asarray(rng.normal(0, 1, (len(length), steps, WIDTHS[name])), jnp.float32)
        streams[name] = jnp.where(mask[..., None], x, garbage * x), mask
    return streams


def cut(streams, clip):
    """One clip without the padding; a modality that is missing keeps a few empty steps."""
    few = {"audio": 3, "text": 2}
    return {name: (x[None, clip, : few[name]], mask[None, clip, : few[name]]) for name, (x, mask) in streams.items()}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fusion", VARIANTS)
def test_a_padded_batch_gives_the_same_logits_as_each_clip_alone_and_garbage_changes_nothing(fusion, pooling):
    forward = jax.jit(build(fusion, pooling))

    @settings(max_examples=5, deadline=None)
    @given(st.permutations([(3, 2), (0, 2), (3, 0)]), st.integers(0, 99))
    def holds(lengths, seed):
        streams = streams_of(lengths, seed)
        together = forward(streams)
        np.testing.assert_allclose(together, forward(streams_of(lengths, seed, garbage=-20.0)), rtol=1e-5, atol=1e-6)
        for clip in range(len(lengths)):
            np.testing.assert_allclose(together[clip], forward(cut(streams, clip))[0], rtol=1e-4, atol=1e-5)

    holds()


@pytest.mark.parametrize("fusion", VARIANTS)
def test_gradients_stay_finite_and_none_reaches_a_missing_modality(fusion):
    graph, params, rest = nnx.split(build(fusion), nnx.Param, ...)
    streams = streams_of([(7, 5), (0, 3), (4, 0), (0, 0)])

    @jax.jit
    def loss(params, sequences):
        given = {name: (sequences[name], mask) for name, (_, mask) in streams.items()}
        return -jax.nn.log_softmax(nnx.merge(graph, params, rest, copy=True)(given))[:, 0].sum()

    sequences = {name: x for name, (x, _) in streams.items()}
    of_params, of_sequences = jax.grad(loss, argnums=(0, 1))(params, sequences)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_sequences)))
    for name, (_, mask) in streams.items():
        reached = np.abs(of_sequences[name]).max(-1) > 0
        np.testing.assert_array_equal(reached, mask)


@pytest.mark.parametrize("fusion", VARIANTS)
def test_the_logits_depend_on_each_modality(fusion):
    model = jax.jit(build(fusion))
    both = streams_of([(7, 5)])
    logits = model(both)
    for name in WIDTHS:
        x, mask = both[name]
        assert not np.allclose(model(both | {name: (x + 1, mask)}), logits, atol=1e-4)


@pytest.mark.parametrize("fusion", ["early", "late", "gated", "hybrid"])
def test_a_fusion_learns_a_label_of_which_each_modality_holds_one_half(fusion):
    graph, params, rest = nnx.split(build(fusion), nnx.Param, ...)
    chain = optax.adam(1e-2)

    def clips(key):
        """Four emotions; the sound holds the first bit of the label, the words the second, each in one step only."""
        label_key, place_key, *noise_keys = jax.random.split(key, 4)
        label = jax.random.randint(label_key, (64,), 0, 4)
        streams = {}
        for name, noise_key, bit in zip(STEPS, noise_keys, (label // 2, label % 2), strict=True):
            x = 0.5 * jax.random.normal(noise_key, (64, STEPS[name], WIDTHS[name]))
            place = jax.random.randint(place_key, (64,), 0, STEPS[name])
            x = x.at[jnp.arange(64), place, 0].add(4.0 * (2 * bit - 1))
            streams[name] = x, jnp.ones(x.shape[:2], bool)
        return streams, label

    def logits_of(params, streams):
        return nnx.merge(graph, params, rest, copy=True)(streams)[:, :4]

    def step(carry, key):
        params, opt_state = carry
        streams, label = clips(key)
        gradients = jax.grad(
            lambda p: optax.softmax_cross_entropy_with_integer_labels(logits_of(p, streams), label).mean()
        )(params)
        updates, opt_state = chain.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def accuracies(params):
        (params, _), _ = jax.lax.scan(step, (params, chain.init(params)), jax.random.split(jax.random.key(0), 300))
        streams, label = clips(jax.random.key(1))
        no_words = {name: (x, mask & (name == "audio")) for name, (x, mask) in streams.items()}
        return [(logits_of(params, given).argmax(1) == label).mean() for given in (streams, no_words)]

    both, sound = accuracies(params)
    assert both > 0.85 and 0.3 < sound < 0.7


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_late_fusion_is_the_weighted_mean_or_for_a_clip_of_one_modality_that_ones_output(combine):
    model = build("late" if combine == "logits" else "late of probabilities")
    model.weight[...] = jnp.array([1.0, -0.5])
    streams = streams_of([(7, 5), (7, 0), (0, 5)])
    logits = {name: model.heads[name](model.pools[name](*streams[name])) for name in WIDTHS}
    share = jax.nn.softmax(model.weight[...])
    p = jax.nn.softmax(model(streams))
    if combine == "logits":
        mixed = jax.nn.softmax(share[0] * logits["audio"][0] + share[1] * logits["text"][0])
    else:
        mixed = share[0] * jax.nn.softmax(logits["audio"][0]) + share[1] * jax.nn.softmax(logits["text"][0])
    np.testing.assert_allclose(p[0], mixed, rtol=1e-5)
    np.testing.assert_allclose(p[1], jax.nn.softmax(logits["audio"][1]), rtol=1e-5)
    np.testing.assert_allclose(p[2], jax.nn.softmax(logits["text"][2]), rtol=1e-5)


@pytest.mark.parametrize("useful", ["never", "where it says so"])
def test_a_gate_closes_to_words_that_tell_nothing_and_opens_where_they_tell(useful):
    """Four emotions. The sound tells them; 'where it says so': in half of the clips only the words do, loud there."""
    graph, params, rest = nnx.split(build("gated", "mean"), nnx.Param, ...)
    chain = optax.adam(1e-2)

    def clips(key):
        label_key, *noise_keys, half_key = jax.random.split(key, 4)
        label = jax.random.randint(label_key, (64,), 0, 4)
        words = jax.random.bernoulli(half_key, 0.5, (64,)) & (useful != "never")
        streams = {}
        for name, noise_key, tells in zip(STEPS, noise_keys, (~words, words), strict=True):
            x = 0.5 * jax.random.normal(noise_key, (64, STEPS[name], WIDTHS[name]))
            x += 2.0 * tells[:, None, None] * jax.nn.one_hot(label, WIDTHS[name])[:, None]
            streams[name] = x, jnp.ones(x.shape[:2], bool)
        return streams, label, words

    def step(carry, key):
        params, opt_state = carry
        streams, label, _ = clips(key)

        def loss(params):
            logits = nnx.merge(graph, params, rest, copy=True)(streams)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        updates, opt_state = chain.update(jax.grad(loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def shares(params):
        (params, _), _ = jax.lax.scan(step, (params, chain.init(params)), jax.random.split(jax.random.key(0), 300))
        streams, _, words = clips(jax.random.key(1))
        return nnx.merge(graph, params, rest, copy=True).shares(streams)[:, 1], words

    share, words = shares(params)
    assert share[~words].mean() < 0.1
    assert useful == "never" or share[words].mean() > 0.9


def test_a_gate_gives_all_to_the_modality_that_is_there():
    shares = build("gated").shares(streams_of([(7, 5), (7, 0), (0, 5)]))
    np.testing.assert_allclose(shares, [[0.5, 0.5], [1, 0], [0, 1]])


def test_cross_attention_of_a_missing_modality_adds_exactly_nothing():
    model = build("hybrid")
    streams = streams_of([(7, 0), (7, 5)])
    crossed, plain = model._cross(streams, None)["audio"][0], model.project["audio"](streams["audio"][0])
    np.testing.assert_array_equal(crossed[0], plain[0])
    assert not np.allclose(crossed[1], plain[1])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_attention_can_be_read_out_of_every_fusion(fusion):
    streams = streams_of([(7, 5), (4, 2), (0, 5)])
    attention = jax.jit(build(fusion).attention)(streams)
    for name, weights in attention.items():
        mask = np.asarray(streams[name][1])
        assert weights.shape[:2] == mask.shape and weights.shape[2] in (2, 4)
        assert not np.asarray(weights)[~mask].any() and (np.asarray(weights)[mask] > 0).all()
    total = sum(np.asarray(weights).sum(1) for weights in attention.values())
    np.testing.assert_allclose(total[:2], 1.0 if fusion == "early" else 2.0, rtol=1e-5)
    np.testing.assert_allclose(total[2], 1.0, rtol=1e-5)


def classifier(fusion="late", text="gru", dropped=None):
    model = default.get_config().model
    model.audio, model.text, model.fusion, model.pooling = "cnn", text, fusion, "attention"
    model.cnn.channels, model.gru.embedding, model.gru.hidden = (2,), 3, 2
    model.dropout = model.gru.dropout = model.gru.token_dropout = 0.0
    model.modality_dropout.update(dropped or {})
    return models.build(model.to_dict(), mels=4, vocabulary=9, classes=3, dtype="float32", seed=0)


def batch_of(frames, tokens):
    rng = np.random.default_rng(0)
    return Batch(
        logmel=jnp.asarray(np.repeat(rng.normal(0, 1, (1, 8, 4)), len(frames), 0), jnp.float32),
        frames=jnp.asarray(frames),
        tokens=jnp.asarray(np.repeat(rng.integers(1, 9, (1, 8)), len(frames), 0)),
        n_tokens=jnp.asarray(tokens),
    )


def test_modality_dropout_removes_one_modality_at_the_given_rates_never_both_and_only_in_training():
    model, rows = jax.jit(classifier(dropped={"audio": 0.3, "text": 0.2})), 400
    whole, soundless, wordless = np.asarray(
        model(batch_of([8, 0, 8] + [0] * (rows - 3), [8, 8, 0] + [0] * (rows - 3)))
    )[:3]
    trained = np.asarray(model(batch_of([8] * rows, [8] * rows), jax.random.key(0)))
    shares = [np.isclose(trained, kind[None], atol=1e-5).all(1).mean() for kind in (whole, soundless, wordless)]
    assert sum(shares) == pytest.approx(1)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.06)
    only = np.asarray(model(batch_of([0, 8] * (rows // 2), [8, 0] * (rows // 2)), jax.random.key(1)))
    np.testing.assert_allclose(only, np.tile([soundless, wordless], (rows // 2, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "middle"}, "concat, early, late, gated, hybrid"),
        ({"dropped": {"audio": 0.7, "text": 0.6}}, "1 together at most"),
    ],
)
def test_a_fusion_that_cannot_be_built_is_refused_with_what_is_allowed(options, words):
    with pytest.raises(UserError, match=words):
        classifier(**options)


def test_a_model_of_one_modality_ignores_the_fusion():
    assert type(classifier("hybrid", text="").fusion) is FUSIONS["concat"]


def test_an_empty_transcript_and_an_empty_recording_become_length_zero_beside_the_other_modality():
    logmels = [np.ones((5, 4), np.float32), np.zeros((0, 4), np.float32), np.ones((9, 4), np.float32)]
    tokens = [np.zeros(0, np.int32), np.array([3, 4], np.int32), np.array([2], np.int32)]
    fields = {"max_frames": 6, "max_tokens": 5, "batch_size": 4, "buckets": 1}
    rows = data.from_arrays(logmels, tokens, np.zeros(3, np.int32), **fields).buckets[0].rows
    assert rows.frames.tolist() == [5, 0, 6, 6] and rows.n_tokens.tolist() == [0, 2, 1, 1]
    rows = data.from_arrays(None, tokens, np.zeros(3, np.int32), **fields).buckets[0].rows
    assert rows.n_tokens.tolist() == [1, 2, 1] and int(rows.tokens[0, 0]) == data.UNK
