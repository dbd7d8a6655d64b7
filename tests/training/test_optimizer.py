"""The optimizer: what is frozen stays, what is deep learns slowly or late, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emoflax import models
from emoflax.configs import default
from emoflax.data import dataset as data
from emoflax.errors import UserError
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training import optimizer
from emoflax.training.checkpoint import Checkpoints, parts_of
from emoflax.training.optimizer import Hyperparameters, OptimizerConfig

LAYERS, WORDS = 2, 11


def bert_model(seed=0):
    config = default.get_config().model
    config.text, config.pooling = "bert", "mean"
    config.bert.update(width=8, layers=1, heads=2, hidden=12, positions=8)
    return models.build(config.to_dict(), mels=1, vocabulary=WORDS, classes=3, dtype="float32", seed=seed)


@pytest.fixture(scope="module")
def params():
    """Weights under the paths of a Transformer's: small, as nothing here depends on what they are for."""
    rng = np.random.default_rng(0)

    def linear(n: int) -> dict:
        return {"kernel": jnp.asarray(rng.normal(size=(n, 3))), "bias": jnp.asarray(rng.normal(size=3))}

    layers = {number: {"up": linear(2), "norm": {"scale": jnp.ones(3)}} for number in range(LAYERS)}
    stem = {"word_embedding": jnp.asarray(rng.normal(size=(5, 3)))}
    return {"text": {"stem": stem, "layers": layers, "norm": {"scale": jnp.ones(3)}}, "fusion": {"logits": linear(4)}}


def named(tree) -> dict[str, np.ndarray]:
    """Leaves by path, as in 'text.layers.0.up.kernel'."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value") for path, _ in flat]
    return {name: np.array(leaf) for name, (_, leaf) in zip(names, flat, strict=True)}


def gradients_of(params, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)


def chain_of(freeze="", **numbers):
    numbers = Hyperparameters(learning_rate=0.1, weight_decay=0.1, clip_norm=1.0, **numbers)
    by_layer = numbers.layer_decay != 1 or numbers.unfreeze_steps > 0
    return optimizer.build(OptimizerConfig("constant", freeze=freeze, by_layer=by_layer), numbers)


def updates_of(params, steps=1, **options) -> list[dict[str, np.ndarray]]:
    """The updates of the first steps, on gradients drawn from one seed."""
    chain = chain_of(**options)
    state, found, step = chain.init(params), [], jax.jit(chain.update)
    for seed in range(steps):
        updates, state = step(gradients_of(params, seed), state, params)
        found.append(named(updates))
    return found


def height(name: str) -> int:
    if name.startswith("text.layers."):
        return LAYERS - int(name.split(".")[2])
    return LAYERS + 1 if name.startswith("text.stem.") else 0


def test_without_the_new_fields_the_optimizer_is_the_plain_chain(params):
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, p: p.ndim > 1 and not any(w in jax.tree_util.keystr(path) for w in ("bias", "embedding")), params
    )
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.1, mask=decayed))
    gradients = gradients_of(params, 0)
    ours = chain_of()
    (a, _), (b, _) = (jax.jit(chain.update)(gradients, chain.init(params), params) for chain in (ours, plain))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_each_layers_rate_is_that_of_the_layer_above_times_the_decay(params):
    (plain,), (scaled,) = updates_of(params), updates_of(params, layer_decay=0.5)
    assert {height(name) for name in plain} == {0, 1, 2, 3}
    for name, update in plain.items():
        np.testing.assert_allclose(scaled[name], update * 0.5 ** height(name), rtol=1e-6)


def test_layers_are_unfrozen_from_the_top_each_after_so_many_steps(params):
    plain, slow = updates_of(params, steps=7), updates_of(params, steps=7, unfreeze_steps=2)
    for step, (update, late) in enumerate(zip(plain, slow, strict=True)):
        for name, value in late.items():
            wanted = update[name] if step >= 2 * height(name) else np.zeros_like(value)
            np.testing.assert_array_equal(value, wanted, err_msg=f"{name} at step {step}")


@pytest.mark.parametrize("freeze", ["encoders", "text.stem,text.layers.1"])
def test_what_is_frozen_gets_no_update_not_even_decay_and_has_no_moments(params, freeze):
    for updates in updates_of(params, steps=2, freeze=freeze, layer_decay=0.9):
        for name, update in updates.items():
            assert np.any(update) != optimizer.is_frozen(name, freeze), name
    frozen = [p.size for name, p in named(params).items() if optimizer.is_frozen(name, freeze)]
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(chain_of(freeze=f).init(params)))
        for f in ("", freeze)
    ]  # fmt: skip
    assert sizes[0] - sizes[1] == 2 * sum(frozen)


def test_no_gradient_flows_to_what_is_frozen(params):
    def total(params):
        return sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(optimizer.hold_frozen(params, "text.stem")))

    gradients = named(jax.jit(jax.grad(total))(params))
    for name, p in named(params).items():
        np.testing.assert_array_equal(gradients[name], 0 * p if name.startswith("text.stem.") else 2 * p, name)


def test_a_beginning_of_a_path_ends_where_a_name_does():
    assert optimizer.is_frozen("text.layers.1.up.kernel", "text.layers.1")
    assert not optimizer.is_frozen("text.layers.10.up.kernel", "text.layers.1")
    assert not optimizer.is_frozen("fusion.head.kernel", "encoders")


def test_stopped_restored_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(2, WORDS, n).astype(np.int32) for n in rng.integers(1, 8, 16)]
    dataset = data.from_arrays(
        None, tokens, rng.integers(0, 3, 16).astype(np.int32), max_frames=1, max_tokens=8, batch_size=8, buckets=1
    )
    config, model = default.get_config(), bert_model()
    config.optimizer.update(freeze="text.stem", layer_decay=0.8, unfreeze_epochs=0.5, warmup_epochs=0.0)
    config.train.epochs = 3
    train_config = train_config_of(config, model, steps_per_epoch=2)

    start = train_config.init(model, 0)

    def run(state, epochs):
        kept, state = [], jax.tree.map(jnp.copy, state)  # training donates it
        train.fit(train_config, state, dataset, epochs=epochs, after_epoch=lambda _, new, __: kept.append(new))
        return kept[-1]

    whole = jax.tree.map(np.array, run(start, 3))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {}, 0.0, *parts_of(run(start, 1)))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    resumed = run(checkpoints.restore_state(1, start), 3)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, whole, jax.tree.map(np.array, resumed))
    before = named(start.params)
    moved = {name: not np.array_equal(p, before[name]) for name, p in named(whole.params).items()}
    assert all(moved[name] != name.startswith("text.stem.") for name in moved), moved


@pytest.mark.parametrize(
    ("options", "words"),
    [({"freeze": "text.stem,voice"}, "'voice'"), ({"freeze": "encoders,fusion"}, "nothing to train"),
     ({"layer_decay": 1.5}, "layer_decay"), ({"unfreeze_epochs": -1.0}, "unfreeze_epochs")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused_in_a_sentence(params, options, words):
    with pytest.raises(UserError, match=words):
        optimizer.check(params, **{"freeze": "", "layer_decay": 1.0, "unfreeze_epochs": 0.0} | options)


def test_layer_wise_settings_need_layers():
    with pytest.raises(UserError, match="made of layers"):
        optimizer.check({"audio": {"kernel": jnp.zeros(2)}}, freeze="", layer_decay=0.9, unfreeze_epochs=0.0)
