"""Low-rank adapters: nothing before they learn, W + alpha / rank * A B after; what they stand beside stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emoflax import models
from emoflax.batch import Batch
from emoflax.configs import default
from emoflax.errors import UserError
from emoflax.experiment.train_config import train_config_of
from emoflax.models import lora
from emoflax.training.step import train_step

SIZES = {
    "whisper": {"width": 16, "layers": 2, "heads": 2, "dropout": 0.0, "silence_s": 0.1},
    "wav2vec2": {"width": 16, "layers": 1, "heads": 2, "hidden": 24, "dropout": 0.0, "positions": (4, 2, 1),
                 "channels": (4, 4), "kernels": (10, 4), "strides": (8, 4)},
    "bert": {"width": 16, "layers": 1, "heads": 2, "hidden": 24, "dropout": 0.0, "token_dropout": 0.0},
}  # fmt: skip
ALL = lora.TARGETS


def built(encoder: str, *, rank: int, targets=ALL, layers=(), pooling="mean", **optimizer):
    """A config and a model of it."""
    config = default.get_config()
    config.model[encoder].update(SIZES[encoder])
    config.model.update({"text" if encoder == "bert" else "audio": encoder, "pooling": pooling, "layers": layers})
    config.model.lora.update(rank=rank, alpha=3.0, targets=targets)
    config.optimizer.update({"freeze": "encoders", "warmup_epochs": 0.0} | optimizer)
    mels = 320 if encoder == "wav2vec2" else 5
    options = {"mels": mels, "vocabulary": 9, "classes": 3, "dtype": "float32", "seed": 4}
    return config, models.build(config.model.to_dict(), **options)


def batch_for(encoder: str) -> Batch:
    rng, n = np.random.default_rng(0), jnp.array([6, 9, 4, 7], jnp.int32)
    common = {"label": jnp.arange(4, dtype=jnp.int32) % 3, "weight": jnp.ones(4)}
    if encoder == "bert":
        return Batch(tokens=jnp.asarray(rng.integers(1, 9, (4, 9)), jnp.int32), n_tokens=n, **common)
    logmel = rng.normal(size=(4, 9, 320 if encoder == "wav2vec2" else 5)).astype(np.float32)
    logmel *= (np.arange(9)[None] < np.asarray(n)[:, None])[..., None]
    return Batch(logmel=jnp.asarray(logmel), frames=n, **common)


logits_of = nnx.jit(lambda model, batch: model(batch))


def adapters(model: nnx.Module) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(model, nnx.LoRAParam))}


@pytest.mark.parametrize("encoder", SIZES)
def test_before_they_learn_the_model_is_the_one_without_and_afterwards_the_one_with_their_products_added(encoder):
    (_, plain), (_, adapted), batch = built(encoder, rank=0), built(encoder, rank=2), batch_for(encoder)
    before = logits_of(adapted, batch)
    np.testing.assert_array_equal(before, logits_of(plain, batch))
    rng = np.random.default_rng(1)
    for path, variable in adapters(adapted).items():
        if path.endswith("lora_b"):
            variable[...] = jnp.asarray(rng.normal(size=variable.shape) * 0.3, jnp.float32)
    merged = dict(nnx.to_flat_state(nnx.state(plain, nnx.Param)))
    kernels = [path for path in merged if path[-1] == "kernel" and path[-2] in ALL]
    assert len(kernels) == len(adapters(adapted)) // 2 == len(ALL) * SIZES[encoder]["layers"]
    found = dict(nnx.to_flat_state(nnx.state(adapted, nnx.Param)))
    for path in kernels:
        a, b = (found[(*path[:-1], "lora", name)][...] for name in ("lora_a", "lora_b"))
        merged[path][...] = merged[path][...] + 3.0 / 2 * a @ b
    after = logits_of(adapted, batch)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, logits_of(plain, batch), atol=1e-5)


def test_adapters_the_norms_that_are_asked_for_and_the_head_train_and_nothing_else_does():
    config, model = built("whisper", rank=2, targets=("query", "up"), freeze="encoders,-mlp_norm")
    trained, batch = train_config_of(config, model, steps_per_epoch=10), batch_for("whisper")
    state, step = trained.init(model, 0), jax.jit(train_step, static_argnums=0)
    before = jax.tree.map(np.array, state.params)
    for _ in range(2):  # in the first one B is zero, and A has no gradient
        state, _ = step(trained.step, state, batch)
    pairs = [dict(nnx.to_flat_state(params)) for params in (before, state.params)]
    moved = {".".join(map(str, path)) for path in pairs[0] if not np.array_equal(*(pair[path][...] for pair in pairs))}
    beside = {f"audio.layers.{i}.{part}.lora.lora_{ab}" for i in (0, 1) for part in ("attention.query", "up")
              for ab in "ab"}  # fmt: skip
    norms = {f"audio.layers.{i}.mlp_norm.{name}" for i in (0, 1) for name in ("scale", "bias")}
    assert moved == beside | norms | {"fusion.head.logits.kernel", "fusion.head.logits.bias"}
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(pairs[0][path][...].size for path in pairs[0] if ".".join(map(str, path)) in moved)


def test_layers_side_by_side_are_those_of_the_encoder_and_what_lies_above_them_plays_no_part():
    _, model = built("whisper", rank=2, layers=(0, 1), pooling="mean_std")
    batch = batch_for("whisper")
    outputs, mask = nnx.jit(lambda encoder, *x: encoder.states(*x))(model.audio, batch.logmel, batch.frames)
    sequence, own = nnx.jit(lambda encoder, *x: encoder(*x))(model.audio, batch.logmel, batch.frames)
    np.testing.assert_array_equal(mask, own)
    valid = np.asarray(mask)
    np.testing.assert_allclose(sequence[valid], jnp.concatenate(outputs[:2], -1)[valid], atol=1e-6)
    embed = nnx.jit(lambda model, batch: model.embed(batch))
    pooled = np.asarray(embed(model, batch))
    assert pooled.shape == (4, 2 * 2 * 16)
    for row, steps, there in zip(pooled, sequence, valid, strict=True):
        wanted = [steps[there].mean(0), np.sqrt(steps[there].var(0) + 1e-6)]
        np.testing.assert_allclose(row, np.concatenate(wanted), atol=1e-5)
    for _, variable in nnx.to_flat_state(nnx.state(model.audio.layers[1], nnx.Param)):
        variable[...] = jnp.full_like(variable[...], 7.0)
    np.testing.assert_array_equal(embed(model, batch), pooled)


def test_what_cannot_be_adapted_is_one_sentence():
    with pytest.raises(UserError, match="lora.rank=16 must be below 16"):
        built("whisper", rank=16)
    with pytest.raises(UserError, match="layers=\\(1, 3\\): the encoder has layers 0 to 2"):
        built("whisper", rank=0, layers=(1, 3))
    config = default.get_config()
    config.model.update(audio="cnn")
    config.model.lora.rank = 1
    with pytest.raises(UserError, match="an encoder made of layers"):
        models.build(config.model.to_dict(), mels=8, vocabulary=0, classes=2, dtype="float32", seed=0)
