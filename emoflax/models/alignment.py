"""Forced alignment: a clip's frames are assigned, in order, to the states of a template of its text.

A template is one mean per state (segmental k-means: Rabiner, Wilpon & Juang 1986, "A segmental k-means training
procedure for connected word recognition based on whole word reference patterns"); the best path through it is
Viterbi's, who stays in a state or goes on to the next. What was said decides it, and no label of an emotion.
Shape letters: B clips, T frames, D timbre, S states.
"""

import jax
import jax.numpy as jnp

from emoflax.masks import valid

_FAR = 1e4  # squared distance; what a path pays for each state that it leaves out at either end
_DELTA, _ENERGY = 2.0, 2.0  # weights beside the cepstra
_DB, _LOWEST = 15.0, -3.0  # energy under the clip's peak, in units of so many dB, and no lower than that
_ROUNDS = 10


def timbre(cepstra_BxTxC: jax.Array, energy_db_BxT: jax.Array, frames_B: jax.Array) -> jax.Array:
    """What frames are compared by, [batch, frames, 2 * cepstra + 1]: cepstra on the clip's own scale, their slopes, and
    the level under the clip's peak."""
    inside_BxTx1 = valid(frames_B, cepstra_BxTxC.shape[1])[..., None]
    count_Bx1x1 = jnp.maximum(frames_B, 1)[:, None, None]
    mean = jnp.where(inside_BxTx1, cepstra_BxTxC, 0).sum(1, keepdims=True) / count_Bx1x1
    centred = jnp.where(inside_BxTx1, cepstra_BxTxC - mean, 0)
    z_BxTxC = centred / (jnp.sqrt(jnp.square(centred).sum(1, keepdims=True) / count_Bx1x1) + 1e-3)
    ahead, behind = (jnp.take_along_axis(z_BxTxC, _near(frames_B, z_BxTxC.shape[1], step), 1) for step in (1, -1))
    under_BxT = energy_db_BxT - jnp.where(inside_BxTx1[..., 0], energy_db_BxT, -jnp.inf).max(1, keepdims=True)
    energy_BxTx1 = jnp.clip(under_BxT / _DB, _LOWEST, 0)[..., None]
    return jnp.concatenate([z_BxTxC, _DELTA * (ahead - behind) / 2, _ENERGY * energy_BxTx1], axis=-1)


def _near(frames_B: jax.Array, width: int, step: int) -> jax.Array:
    """Places [batch, width, 1] of each frame's neighbour; the ends are their own."""
    return jnp.clip(jnp.arange(width)[None] + step, 0, jnp.maximum(frames_B - 1, 0)[:, None])[..., None]


def distances(timbre_BxTxD: jax.Array, template_SxD: jax.Array) -> jax.Array:
    """Squared distance of every frame to every state, [batch, frames, states]."""
    squares = jnp.square(timbre_BxTxD).sum(-1, keepdims=True) + jnp.square(template_SxD).sum(-1)[None, None]
    return jnp.maximum(squares - 2 * jnp.einsum("btd,sd->bts", timbre_BxTxD, template_SxD), 0)


def best_path(distance_BxTxS: jax.Array, frames_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean distance along the best path from the first state to the last, [batch]; its states, int32 [batch, frames].

    A clip of fewer frames than states leaves out some at the ends.
    """
    far = _FAR * jnp.arange(distance_BxTxS.shape[-1])[None]

    def step(total_BxS, inputs):
        distance_BxS, inside_Bx1 = inputs
        moved_BxS = jnp.pad(total_BxS[:, :-1], ((0, 0), (1, 0)), constant_values=jnp.inf)
        came_BxS = (moved_BxS < total_BxS) & inside_Bx1
        return jnp.where(inside_Bx1, jnp.minimum(moved_BxS, total_BxS) + distance_BxS, total_BxS), came_BxS

    inside_TxBx1 = valid(frames_B, distance_BxTxS.shape[1]).T[..., None]
    inputs = distance_BxTxS[:, 1:].swapaxes(0, 1), inside_TxBx1[1:]
    total_BxS, came_TxBxS = jax.lax.scan(step, distance_BxTxS[:, 0] + far, inputs)
    total_BxS = total_BxS + far[:, ::-1]
    last_B = total_BxS.argmin(1)

    def back(state_B, came_BxS):
        state_B = state_B - jnp.take_along_axis(came_BxS, state_B[:, None], 1)[:, 0]
        return state_B, state_B

    _, state_TxB = jax.lax.scan(back, last_B, came_TxBxS, reverse=True)
    cost_B = total_BxS.min(1) / jnp.maximum(frames_B, 1)
    return cost_B, jnp.concatenate([state_TxB, last_B[None]]).T.astype(jnp.int32)


def template(timbre_BxTxD: jax.Array, frames_B: jax.Array, states: int) -> jax.Array:
    """Means of the states, [states, timbre], of clips of one text; it begins with states of equal length."""
    inside_BxTx1 = valid(frames_B, timbre_BxTxD.shape[1])[..., None]

    def means(state_BxT):
        own_BxTxS = jax.nn.one_hot(state_BxT, states) * inside_BxTx1
        count_Sx1 = jnp.maximum(own_BxTxS.sum((0, 1)), 1)[:, None]
        return jnp.einsum("bts,btd->sd", own_BxTxS, timbre_BxTxD) / count_Sx1

    def again(state_BxT, _):
        return best_path(distances(timbre_BxTxD, means(state_BxT)), frames_B)[1], None

    equal_BxT = jnp.arange(timbre_BxTxD.shape[1])[None] * states // jnp.maximum(frames_B, 1)[:, None]
    state_BxT, _ = jax.lax.scan(again, jnp.minimum(equal_BxT, states - 1).astype(jnp.int32), length=_ROUNDS)
    return means(state_BxT)
