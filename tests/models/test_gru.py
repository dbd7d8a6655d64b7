"""The GRU encoder: torch's recurrence, independent of padding, and a pure function of (weights, batch, key)."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emoflax.models.gru import UNKNOWN, Gru, bidirectional_gru

B, T, V, E, H = 5, 11, 23, 7, 13  # all different, so that swapped axes raise an error
LENGTHS = np.array([11, 1, 3, 7, 10], np.int32)


def make_gru(dropout: float = 0.0, token_dropout: float = 0.0, dtype=jnp.float32) -> Gru:
    return Gru(V, embedding=E, hidden=H, dropout=dropout, token_dropout=token_dropout, dtype=dtype, rngs=nnx.Rngs(0))


@jax.jit
def read(gru: Gru, tokens_BxT, lengths_B, key=None):
    """One compiled program instead of many small ones, in a third of the time."""
    return gru(tokens_BxT, lengths_B, key)


def make_tokens(seed: int = 0) -> np.ndarray:
    tokens_BxT = np.random.default_rng(seed).integers(2, V, (B, T)).astype(np.int32)
    return np.where(np.arange(T) < LENGTHS[:, None], tokens_BxT, 0)


def relative_error(ours: jax.Array, theirs) -> float:
    theirs = np.asarray(theirs)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def torch_case():
    """A torch GRU on packed sequences: its weights in our layout, its output, and gradients of a random projection."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.GRU(E, H, bidirectional=True, batch_first=True)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.7, generator=generator)
    x = torch.randn(B, T, E, generator=generator, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=T)
    projection = torch.randn(B, T, 2 * H, generator=generator)
    (h * projection).sum().backward()

    def both(name: str, of) -> np.ndarray:
        return np.stack([of(getattr(layer, name + end)).numpy() for end in ("_l0", "_l0_reverse")])

    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [both(name, lambda weight: weight.detach()) for name in names]
    gradients = [both(name, lambda weight: weight.grad) for name in names]
    return x.detach().numpy(), weights, h.detach().numpy(), projection.numpy(), [x.grad.numpy(), *gradients]


def test_outputs_equal_those_of_torch_on_packed_sequences(torch_case):
    x, weights, h, _, _ = torch_case
    mask = np.arange(T) < LENGTHS[:, None]
    assert relative_error(jax.jit(bidirectional_gru)(x, mask, *weights), h) < 1e-5


def test_gradients_equal_those_of_torch_on_packed_sequences(torch_case):
    x, weights, _, projection, gradients = torch_case
    mask = np.arange(T) < LENGTHS[:, None]

    def loss(x, weights):
        return jnp.sum(bidirectional_gru(x, mask, *weights) * projection)

    ours = jax.tree.leaves(jax.jit(jax.grad(loss, argnums=(0, 1)))(x, weights))
    assert [relative_error(a, b) < 1e-5 for a, b in zip(ours, gradients, strict=True)] == [True] * 5


def test_a_clip_in_a_padded_batch_gives_the_same_sequence_as_alone():
    gru, tokens = make_gru(), make_tokens()
    batch_BxTxD, _ = read(gru, tokens, LENGTHS)
    wider_BxTxD, _ = read(gru, np.pad(tokens, ((0, 0), (0, 6))), LENGTHS)
    for i, length in enumerate(LENGTHS):
        alone_1xTxD, _ = read(gru, tokens[i : i + 1, :length], LENGTHS[i : i + 1])
        np.testing.assert_allclose(batch_BxTxD[i, :length], alone_1xTxD[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(wider_BxTxD[i, :length], alone_1xTxD[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", [None, 4])
def test_outputs_at_padding_are_exactly_zero_whatever_the_tokens_there(key):
    tokens = np.where(np.arange(T) < LENGTHS[:, None], make_tokens(), 9)
    key = None if key is None else jax.random.key(key)
    sequence_BxTxD, mask_BxT = read(make_gru(0.3, 0.2), tokens, LENGTHS, key)
    assert sequence_BxTxD.shape == (B, T, make_gru().width) and mask_BxT.dtype == bool
    np.testing.assert_array_equal(mask_BxT.sum(axis=1), LENGTHS)
    assert not np.any(np.asarray(sequence_BxTxD)[~np.asarray(mask_BxT)])
    assert np.all(np.any(np.asarray(sequence_BxTxD)[np.asarray(mask_BxT)], axis=-1))


def test_padding_gets_no_gradient():
    graph, weights = nnx.split(make_gru())

    def loss(weights):
        return jnp.sum(jnp.sin(nnx.merge(graph, weights)(make_tokens(), LENGTHS)[0]))

    gradient_VxE = np.asarray(jax.grad(loss)(weights)["embedding"][...])
    assert not gradient_VxE[0].any()
    assert gradient_VxE[make_tokens()[0]].any(axis=1).all()


def test_without_a_key_two_calls_agree_and_dropout_rates_do_not_matter():
    tokens = make_tokens()
    np.testing.assert_array_equal(read(make_gru(), tokens, LENGTHS)[0], read(make_gru(0.5, 0.5), tokens, LENGTHS)[0])


def test_dropout_is_a_function_of_the_key_alone():
    gru, tokens = make_gru(0.4, 0.2), make_tokens()
    first, again, other = (read(gru, tokens, LENGTHS, jax.random.key(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_token_dropout_of_one_replaces_every_token_by_unknown():
    tokens = make_tokens()
    dropped, _ = read(make_gru(token_dropout=1.0), tokens, LENGTHS, jax.random.key(0))
    unknown, _ = read(make_gru(), np.full_like(tokens, UNKNOWN), LENGTHS)
    np.testing.assert_allclose(dropped, unknown, rtol=1e-6)


def test_dropout_zeroes_its_share():
    gru, tokens = make_gru(dropout=0.25), make_tokens()
    drawn = jax.vmap(lambda key: read(gru, tokens, LENGTHS, key)[0])(jax.random.split(jax.random.key(0), 512))
    valid = np.asarray(drawn)[:, np.arange(T) < LENGTHS[:, None]]
    assert abs(np.mean(valid == 0) - 0.25) < 0.01


def test_bfloat16_arithmetic_stays_near_float32_and_keeps_float32_weights():
    tokens = make_tokens()
    half = make_gru(dtype=jnp.bfloat16)
    sequence, _ = read(half, tokens, LENGTHS, jax.random.key(0))
    assert sequence.dtype == jnp.bfloat16 and half.embedding.dtype == jnp.float32
    assert relative_error(sequence.astype(jnp.float32), read(make_gru(), tokens, LENGTHS)[0]) < 0.03
