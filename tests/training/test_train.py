"""One step, one epoch, and what the compiled program promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emoflax.configs import tiny
from emoflax.data import dataset as data
from emoflax.data.rows import batch_of
from emoflax.errors import UserError
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training import losses, scoring
from emoflax.training.epoch import compile_ahead, plan_of, train_epoch, train_steps, visits
from emoflax.training.optimizer import Hyperparameters, OptimizerConfig

CLASSES = 3


def setup(ema=0.0, epochs=40, seed=0, fields=(), clips=37, row_multiple=1, **changes):
    config = tiny.get_config()
    config.audio.mels, config.train.epochs, config.train.ema = 8, epochs, ema
    for field, value in changes.items():
        config.optimizer[field] = value
    config.update_from_flattened_dict(dict(fields))
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, clips).astype(np.int32)
    # Class k is loud in band k.
    logmels = [rng.normal(0, 1, (n, 8)).astype(np.float32) for n in np.linspace(9, 39, clips).astype(int)]
    for logmel, label in zip(logmels, labels, strict=True):
        logmel[:, label] += 2
    dataset = data.from_arrays(
        logmels, None, labels, max_frames=99, max_tokens=1, batch_size=5, buckets=2, shapes=data.Shapes(row_multiple)
    )
    model = build_model(config, 0, CLASSES, seed)
    train_config = train_config_of(config, model, sum(bucket.steps for bucket in dataset.buckets))
    return train_config, train_config.init(model, seed), dataset, labels


def run(train_config, state, dataset, epochs):
    return train.fit(train_config, state, dataset, epochs=epochs, after_epoch=lambda *_: None)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_separable_problem_is_learnt(ema):
    train_config, state, dataset, labels = setup(ema, epochs=25, learning_rate=1e-2)
    state = run(train_config, state, dataset, 25)
    assert (scoring.score(train_config.model, state, dataset).argmax(1) == labels).mean() > 0.9


def test_what_was_compiled_ahead_of_training_scores_after_it_without_another_compilation():
    train_config, state, dataset, _ = setup(clips=41, fields={"model.cnn.channels": (3,)})  # shapes of no other test
    before = scoring._of_rows._cache_size()
    scoring.compile_ahead(train_config.model, state, dataset).result()
    compiled = scoring._of_rows._cache_size()
    assert compiled == before + len(dataset.buckets)
    scoring.score(train_config.model, run(train_config, state, dataset, 1), dataset)
    assert scoring._of_rows._cache_size() == compiled


def test_an_epoch_that_was_compiled_ahead_changes_no_weight_and_is_not_compiled_again():
    train_config, state, dataset, _ = setup(clips=41, fields={"model.cnn.channels": (5,)}, ema=0.9)
    _, expected, *_ = setup(clips=41, fields={"model.cnn.channels": (5,)}, ema=0.9)
    before = train_steps._cache_size()
    compile_ahead(train_config, jax.eval_shape(lambda: state), dataset.buckets).result()
    assert train_steps._cache_size() == before + 1
    assert equal(state, expected)
    run(train_config, state, dataset, 2)
    assert train_steps._cache_size() == before + 1


def test_an_epoch_moves_no_data_between_host_and_device():
    train_config, state, dataset, _ = setup()
    state, _ = train_epoch(train_config, state, dataset.buckets)  # compiled: constants are placed
    with jax.transfer_guard("disallow"):
        state, metrics = train_epoch(train_config, state, dataset.buckets)
        jax.block_until_ready(state)
    assert np.isfinite(metrics["loss"]).all()


def clips_of(plan, dataset):
    """Clips of every step that an epoch takes, as the compiled step gathers its batches."""
    for bucket, slot in np.asarray(plan.visits)[slice(*np.asarray(plan.span))]:
        own, clips = dataset.buckets[bucket], dataset.row_clips[bucket]
        rows = own.rows.replace(label=jnp.pad(clips, (0, own.capacity - len(own)), constant_values=-1))
        batch = batch_of(rows, plan.orders[bucket], plan.counts[bucket], jnp.int32(slot), own.batch_size, own.mesh)
        yield np.asarray(batch.label)[np.asarray(batch.weight) > 0].tolist()


@pytest.mark.parametrize("row_multiple", [1, 64])
def test_an_epoch_visits_every_row_exactly_once_in_an_order_of_its_own(row_multiple):
    _, state, dataset, _ = setup(row_multiple=row_multiple)
    epochs = []
    for step in (0, dataset.steps):
        batches = list(clips_of(plan_of(dataset.buckets, state.seed, jnp.int32(step)), dataset))
        assert len(batches) == dataset.steps and sorted(sum(batches, [])) == list(range(37))
        epochs.append(batches)
    assert epochs[0] != epochs[1]
    other = plan_of(dataset.buckets, jnp.uint32(1), jnp.int32(0))
    assert list(clips_of(other, dataset)) != epochs[0]


def test_batches_of_all_buckets_come_in_an_order_of_their_own_in_every_epoch():
    every = [[bucket, slot] for bucket, steps in enumerate((3, 5)) for slot in range(steps)]
    orders = [np.asarray(visits((3, 5), epoch)).tolist() for epoch in range(3)]
    assert all(sorted(order) == every for order in orders)
    assert len({str(order) for order in [every, *orders]}) == 4


def test_an_epoch_is_logged_with_the_means_over_its_steps():
    metrics = {"loss": np.array([1.0, 2.0, 6.0]), "grad_norm": np.array([4.0, 0.0, 5.0])}
    logged = train.numbers_of(4, metrics, clips=12, seconds=3.0)
    assert (logged["epoch"], logged["step"], logged["loss"], logged["grad_norm"]) == (4, 12, 3.0, 3.0)
    assert logged["clips_per_s"] == 4.0


def test_seeds_folds_and_hyperparameters_of_one_shape_share_one_program():
    before = train_steps._cache_size()
    for seed, learning_rate, clips in ((0, 1e-3, 37), (1, 1e-3, 37), (2, 5e-2, 37), (0, 1e-3, 35)):
        config, state, dataset, _ = setup(seed=seed, learning_rate=learning_rate, clips=clips, row_multiple=64)
        run(config, state, dataset, 2)
    assert train_steps._cache_size() == before + 1


def test_models_that_differ_in_numbers_alone_share_one_program():
    before = train_steps._cache_size()
    numbers = {"model.dropout": 0.3, "augment.gain_db": 4.0, "augment.mixup": 0.2, "train.label_smoothing": 0.1}
    others = {"model.dropout": 0.5, "augment.gain_db": 9.0, "augment.mixup": 0.7, "train.label_smoothing": 0.0}
    params = []
    for fields in (numbers, others):
        config, state, dataset, _ = setup(fields=fields)
        params.append(run(config, state, dataset, 1).params)
    assert train_steps._cache_size() == before + 1
    assert not equal(*params)


def test_padding_rows_to_a_common_number_changes_nothing():
    states = []
    for row_multiple in (1, 64):
        config, state, dataset, _ = setup(row_multiple=row_multiple)
        states.append(run(config, state, dataset, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *states)


def test_two_runs_of_one_seed_are_equal_and_two_seeds_are_not():
    train_config, state, dataset, _ = setup()
    first = run(train_config, state, dataset, 3)
    _, state, _, _ = setup()
    assert equal(first, run(train_config, state, dataset, 3))
    _, state, _, _ = setup(seed=1)
    assert not equal(first.params, run(train_config, state, dataset, 3).params)


def test_stopped_after_any_epoch_and_continued_equals_uninterrupted():
    train_config, state, dataset, _ = setup(ema=0.99)
    whole = run(train_config, state, dataset, 4)
    for stop in (1, 3):
        _, state, _, _ = setup(ema=0.99)
        assert equal(whole, run(train_config, run(train_config, state, dataset, stop), dataset, 4))


def test_rows_of_weight_zero_change_neither_loss_nor_gradient():
    rng = np.random.default_rng(0)
    logits, label = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32), jnp.asarray(rng.integers(0, 4, 7))
    weight = jnp.asarray([1, 2, 0, 1, 0, 3, 1], jnp.float32)
    keep, target = weight > 0, losses.targets(label, 4)
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(logits, target, weight)
    alone = losses.cross_entropy(logits[keep], target[keep], weight[keep])
    assert float(loss) == pytest.approx(float(alone), rel=1e-6)
    assert not np.asarray(gradient)[~np.asarray(keep)].any()


def test_label_smoothing_is_the_mixture_of_the_label_and_the_uniform_loss():
    logits, label, one = jnp.asarray([[1.0, -2.0, 0.5]]), jnp.asarray([1]), jnp.ones(1)
    plain = losses.cross_entropy(logits, losses.targets(label, 3), one)
    uniform = -jnp.mean(jax.nn.log_softmax(logits))
    smooth = losses.cross_entropy(logits, losses.targets(label, 3, 0.3), one)
    assert float(smooth) == pytest.approx(float(0.7 * plain + 0.3 * uniform), rel=1e-5)


def test_nan_stops_with_the_step_and_the_metric_named():
    train_config, state, dataset, _ = setup()
    first, *others = dataset.buckets
    rows = first.rows.replace(logmel=first.rows.logmel.at[0, 0, 0].set(jnp.nan))
    dataset = dataclasses.replace(dataset, buckets=(dataclasses.replace(first, rows=rows), *others))
    with pytest.raises(UserError, match=r"loss is nan at step \d+.*learning_rate"):
        run(train_config, state, dataset, 2)


def test_only_matrices_and_kernels_decay():
    from emoflax.training import optimizer

    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    numbers = Hyperparameters(learning_rate=0.1, weight_decay=0.5)
    chain = optimizer.build(OptimizerConfig("constant", clip=False), numbers)
    updates, _ = chain.update(jax.tree.map(jnp.zeros_like, params), chain.init(params), params)
    assert np.all(np.asarray(updates["kernel"]) < 0) and not np.asarray(updates["bias"]).any()


def test_the_learning_rate_warms_up_and_ends_at_zero():
    from emoflax.training import optimizer

    rate = optimizer.learning_rate("cosine", Hyperparameters(3.0, warmup_steps=10, total_steps=50))
    assert float(rate(0)) == 0 and float(rate(10)) == pytest.approx(3) and float(rate(50)) == pytest.approx(0, abs=1e-6)
    constant = optimizer.learning_rate("constant", Hyperparameters(3.0, warmup_steps=10, total_steps=50))
    assert float(constant(5)) == pytest.approx(1.5) and float(constant(10)) == float(constant(50)) == 3
    with pytest.raises(UserError, match="cosine, constant"):
        OptimizerConfig("step")


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 40), (10, 50), (40, 40), (60, 50)])
def test_the_learning_rate_is_that_of_optax(warmup, total):
    from emoflax.training import optimizer

    theirs = optax.warmup_cosine_decay_schedule(0.0, 3.0, min(warmup, total - 1), total)
    ours = optimizer.learning_rate("cosine", Hyperparameters(3.0, warmup_steps=warmup, total_steps=total))
    steps = np.arange(total + 3)
    np.testing.assert_allclose([ours(step) for step in steps], [theirs(step) for step in steps], atol=1e-6)
