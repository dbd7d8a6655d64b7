"""The convolution block equals the textbook one, gradients included, on a CPU and elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from emoflax.models import conv

SHAPES = [(2, 6, 10, 1, 3, 3), (3, 14, 22, 5, 7, 3), (1, 2, 2, 2, 1, 3), (5, 26, 4, 11, 13, 5), (4, 34, 38, 1, 5, 5)]


def textbook_block(x, kernel, bias):
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.nn.relu(y + bias.reshape(1, 1, 1, -1))
    return lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def arguments(shape, seed=0):
    batch, frames, mels, channels, out, size = shape
    draw = np.random.default_rng(seed).normal
    x, kernel, bias = draw(size=(batch, frames, mels, channels)), draw(size=(size, size, channels, out)), draw(size=out)
    return tuple(jnp.asarray(a, jnp.float32) for a in (x, kernel, bias))


def value_and_grads(f, args, seed=1):
    """The output and the gradients of a random weighting of it with respect to every argument."""
    y, pull = jax.vjp(f, *args)
    return y, *pull(jnp.asarray(np.random.default_rng(seed).normal(size=y.shape), y.dtype))


def assert_close(got, wanted, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-6))


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """Takes the way of a CPU or that of an accelerator; both are right wherever they run."""
    monkeypatch.setattr(conv.jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_all_gradients_equal_the_textbooks(backend, shape):
    args = arguments(shape)
    block = jax.jit(lambda a: value_and_grads(conv.conv_relu_pool, a))(args)
    assert_close(block, value_and_grads(textbook_block, args))


@pytest.mark.parametrize("chosen", ["cpu", "gpu"])
def test_the_gradients_for_cpus_are_chosen_on_a_cpu_alone(chosen, monkeypatch):
    monkeypatch.setattr(conv.jax, "default_backend", lambda: chosen)
    gradient = jax.grad(lambda *args: conv.conv_relu_pool(*args).sum())
    program = str(jax.make_jaxpr(gradient)(*arguments(SHAPES[0])))
    assert ("reduce_window" in program) == (chosen == "gpu")  # XLA's own pooling


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("clips", [1, 16, 17])
def test_the_output_without_gradients_equals_the_textbooks_for_few_clips_and_for_many(clips, channels, backend):
    args = arguments((clips, 6, 10, channels, 20, 3))
    assert_close(jax.jit(conv.conv_relu_pool)(*args), textbook_block(*args))


def test_the_gradient_goes_to_the_first_of_equal_values_and_nowhere_where_relu_cuts(backend):
    kernel = jnp.zeros((3, 3, 2, 1)).at[1, 1, 0, 0].set(1.0)
    x = jnp.zeros((1, 2, 6, 2)).at[0, :, :2, 0].set(3.0)  # a window of ties, one of zeros, one below zero
    x = x.at[0, :, 4:, 0].set(-1.0)
    dx = jax.grad(lambda x: conv.conv_relu_pool(x, kernel, jnp.zeros(1)).sum())(x)
    np.testing.assert_array_equal(np.argwhere(np.asarray(dx)), [[0, 0, 0, 0]])


def test_ties_are_broken_as_in_pytorch(backend):
    torch = pytest.importorskip("torch")
    args = arguments((3, 10, 6, 2, 3, 3))
    args = tuple(jnp.round(a) for a in args)  # whole numbers tie often
    grads = value_and_grads(conv.conv_relu_pool, args)[1:]
    theirs = [torch.tensor(np.array(a)).requires_grad_() for a in args]
    y = torch.nn.functional.conv2d(theirs[0].permute(0, 3, 1, 2), theirs[1].permute(3, 2, 0, 1), theirs[2], padding=1)
    y = torch.nn.functional.max_pool2d(torch.relu(y), 2).permute(0, 2, 3, 1)
    y.backward(torch.tensor(np.random.default_rng(1).normal(size=y.shape), dtype=torch.float32))
    assert_close(grads, [a.grad.numpy() for a in theirs])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_population_under_vmap_equals_its_members(channels):
    members = [arguments((2, 6, 10, channels, 5, 3), seed) for seed in range(3)]
    together = jax.vmap(lambda *args: value_and_grads(conv.conv_relu_pool, args))(
        *map(jnp.stack, zip(*members, strict=True))
    )
    alone = [value_and_grads(conv.conv_relu_pool, args) for args in members]
    assert_close(together, tuple(map(jnp.stack, zip(*alone, strict=True))))


def test_steps_inside_a_scan_equal_steps_one_by_one():
    x, *params = arguments((4, 6, 10, 3, 5, 3))

    def step(params, x):
        grads = jax.grad(lambda p: (conv.conv_relu_pool(x, *p) ** 2).mean())(params)
        return [p - 0.1 * g for p, g in zip(params, grads, strict=True)], None

    xs = jnp.stack([x, 2 * x, -x])
    one_by_one = params
    for x in xs:
        one_by_one, _ = jax.jit(step)(one_by_one, x)
    assert_close(jax.jit(lambda p: lax.scan(step, p, xs)[0])(params), one_by_one)


@pytest.mark.parametrize("channels", [1, 8])
def test_bfloat16_computes_in_bfloat16_near_float32_and_keeps_weights_in_float32(backend, channels):
    x = arguments((2, 14, 10, channels, 1, 3))[0]
    half = conv.ConvBlock(channels, 7, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    full = conv.ConvBlock(channels, 7, rngs=nnx.Rngs(0))
    y = half(x)
    assert y.dtype == jnp.bfloat16 and half.kernel[...].dtype == jnp.float32
    assert_close(y, full(x), 3e-2)
    gradient = nnx.grad(lambda block: block(x).astype(jnp.float32).mean())
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient(half)))
    # Rounding changes which of two close values is the maximum, so single gradients may differ, but not their norm.
    for a, b in zip(jax.tree.leaves(gradient(half)), jax.tree.leaves(gradient(full)), strict=True):
        assert jnp.linalg.norm((a - b).ravel()) < 0.1 * jnp.linalg.norm(b.ravel())


def test_the_backward_pass_keeps_one_byte_per_output_besides_its_inputs():
    args = arguments((2, 14, 22, 5, 7, 3))
    _, pull = jax.vjp(conv.conv_relu_pool, *args)
    kept = sum(a.nbytes for a in jax.tree.leaves(pull))
    outputs = 2 * 7 * 11 * 7
    assert kept <= args[0].nbytes + args[1].nbytes + args[2].nbytes + outputs
