"""A learned sum of a pretrained encoder's layers, and a small head, fitted to the states of all training clips at once.

The layers' weights are a softmax, learned with the head (SUPERB, Yang et al. 2021, arXiv:2105.01051, section 3): they
show which layers tell emotions apart. A clip is a few thousand numbers, so all of them fit into one matrix, and L-BFGS
(Liu & Nocedal 1989) takes the place of epochs. Shape letters: N clips, L layers, D numbers of a layer, E of all layers,
C classes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

from emoflax.errors import UserError
from emoflax.models import ridge
from emoflax.models.classifier import Statistic

_PARTS = 5  # groups of speakers that are left out in turn, to choose the penalty and the temperature
_STEPS = 80  # most steps of L-BFGS; on RAVDESS the loss hardly falls after them
_SEED = 7  # of the hidden layer's first weights: one model, whatever the config's seed
_OUT = -1e9  # logit of a class that a clip's corpus does not have


class LayerSum(nnx.Module):
    """States [rows, layers * numbers] -> logits [rows, classes]; `fit` finds the weights.

    Args:
      functionals: numbers of a row, of all layers.
      layers: how many there are, one after the other in a row.
      hidden: units of a hidden layer; 0: the head is linear.
      penalties: weights of the squared length of the head's weights, from which left-out speakers choose.
    """

    def __init__(
        self, functionals: int, *, layers: int, hidden: int, penalties: tuple[float, ...], classes: int, dtype,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        if layers < 1 or functionals % layers:
            raise UserError(f"config.model.layer_sum: {functionals} numbers cannot be those of {layers} layers")
        self.layers, self.classes, self.penalties = layers, classes, tuple(penalties)
        self.mean, self.std = Statistic(jnp.zeros(functionals)), Statistic(jnp.ones(functionals))
        self.share = nnx.Param(jnp.zeros(layers))
        width = functionals // layers
        self.hidden = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs) if hidden else None
        self.logits = nnx.Linear(hidden or width, classes, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)

    def __call__(self, states_NxE: np.ndarray) -> np.ndarray:
        """Logits [rows, classes], float32."""
        return np.asarray(_apply(self._head(), jnp.asarray(self._standardised(states_NxE))), np.float32)

    def embed(self, states_NxE: np.ndarray) -> np.ndarray:
        """The weighted sum of the layers, float32 [rows, numbers]."""
        share_L = jax.nn.softmax(self.share[...])
        return np.asarray(jnp.einsum("l,nld->nd", share_L, jnp.asarray(self._standardised(states_NxE))), np.float32)

    def fit(self, states_NxE: np.ndarray, clips: ridge.Labelled, text_N: Sequence[str] = ()) -> ridge.Solution:
        """Takes mean, deviation and weights from training rows; texts play no part."""
        self.mean[...], std = jnp.asarray(states_NxE.mean(0)), states_NxE.std(0)
        self.std[...] = jnp.asarray(np.where(std > 0, std, 1))
        x_NxLxD, start = jnp.asarray(self._standardised(states_NxE)), self._start()
        groups = ridge.groups_of(clips.group_N)
        held_out = [np.concatenate(groups[part::_PARTS]) for part in range(min(_PARTS, len(groups)))]
        tried = []
        for penalty in self.penalties:
            scores_NxC = np.full((len(states_NxE), self.classes), -np.inf)
            for held in held_out:
                seen_N = np.ones(len(states_NxE), bool)
                seen_N[held] = False
                scores_NxC[held] = np.asarray(_apply(_minimise(start, x_NxLxD, clips, seen_N, penalty), x_NxLxD[held]))
                scores_NxC[np.ix_(held, ~clips.known_NxC[seen_N].any(0))] = -np.inf
            tried.append((*ridge.rated(scores_NxC, clips), penalty, scores_NxC))
        _, temperature, uar, penalty, scores_NxC = max(tried, key=lambda one: one[0])
        head = _minimise(start, x_NxLxD, clips, np.ones(len(states_NxE), bool), penalty)
        self._take(head, temperature)
        kernel, bias = np.asarray(self.logits.kernel[...]), np.asarray(self.logits.bias[...])
        return ridge.Solution(kernel, bias, penalty, uar, temperature * scores_NxC)

    def _standardised(self, states_NxE: np.ndarray) -> np.ndarray:
        z_NxE = (states_NxE - np.asarray(self.mean[...])) / np.asarray(self.std[...])
        return z_NxE.astype(np.float32).reshape(len(z_NxE), self.layers, -1)

    def _head(self) -> dict[str, jax.Array]:
        """Its arrays by name, as `_apply` takes them."""
        head = {"share": self.share[...], "kernel": self.logits.kernel[...], "bias": self.logits.bias[...]}
        if self.hidden:
            head |= {"hidden_kernel": self.hidden.kernel[...], "hidden_bias": self.hidden.bias[...]}
        return head

    def _start(self) -> dict[str, jax.Array]:
        start = jax.tree.map(jnp.zeros_like, self._head())
        if self.hidden:
            shape = start["hidden_kernel"].shape
            start["hidden_kernel"] = nnx.initializers.lecun_normal()(jax.random.key(_SEED), shape)
            start["kernel"] = nnx.initializers.lecun_normal()(jax.random.key(_SEED + 1), start["kernel"].shape)
        return start

    def _take(self, head: dict[str, np.ndarray], temperature: float) -> None:
        self.share[...] = jnp.asarray(head["share"])
        self.logits.kernel[...] = jnp.asarray(temperature * head["kernel"])
        self.logits.bias[...] = jnp.asarray(temperature * head["bias"])
        if self.hidden:
            self.hidden.kernel[...], self.hidden.bias[...] = head["hidden_kernel"], head["hidden_bias"]


@jax.jit
def _apply(head: dict[str, jax.Array], x_NxLxD: jax.Array) -> jax.Array:
    h_NxD = jnp.einsum("l,nld->nd", jax.nn.softmax(head["share"]), x_NxLxD)
    if "hidden_kernel" in head:
        h_NxD = jax.nn.relu(h_NxD @ head["hidden_kernel"] + head["hidden_bias"][None])
    return h_NxD @ head["kernel"] + head["bias"][None]


@jax.jit
@jax.value_and_grad
def _loss_and_slope(head: dict, x_NxLxD: jax.Array, label_N, weight_N, known_NxC, penalty: jax.Array):
    """Weighted cross-entropy among the classes that a clip's corpus has, and the penalty; their slope."""
    log_p_NxC = jax.nn.log_softmax(jnp.where(known_NxC, _apply(head, x_NxLxD), _OUT))
    own_N = jnp.take_along_axis(log_p_NxC, label_N[:, None], 1)[:, 0]
    size = sum(jnp.square(head[name]).sum() for name in head if name.endswith("kernel"))
    return -(weight_N * own_N).sum() / weight_N.sum() + penalty * size


def _minimise(
    start: dict[str, jax.Array], x_NxLxD: jax.Array, clips: ridge.Labelled, seen_N: np.ndarray, penalty: float
) -> dict[str, np.ndarray]:
    """The head with the least loss on the rows that are seen. One program for all: the others weigh nothing."""
    from scipy.optimize import minimize

    flat, unflatten = ravel_pytree(start)
    unflatten = jax.jit(unflatten)
    arrays = *map(jnp.asarray, (x_NxLxD, clips.label_N, clips.weight_N * seen_N, clips.known_NxC)), jnp.float32(penalty)

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = _loss_and_slope(unflatten(flat.astype(np.float32)), *arrays)
        return float(loss), np.concatenate([np.ravel(np.asarray(slope[name], np.float64)) for name in sorted(slope)])

    options = {"maxiter": _STEPS}
    found = minimize(loss_and_slope, np.asarray(flat, np.float64), jac=True, method="L-BFGS-B", options=options)
    return jax.tree.map(np.asarray, unflatten(found.x.astype(np.float32)))
