"""What a model with `pooling='mean_std'` begins with: the scale of what its head gets, and a head in closed form.

A head that is fitted before its encoder is tuned keeps the first steps from undoing what was pretrained (Kumar et al.
2022, arXiv:2202.10054). Costs one pass of the encoder over the training clips.
"""

import jax.numpy as jnp
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from emoflax.data.dataset import Dataset
from emoflax.data.features import Features
from emoflax.experiment import closed_form
from emoflax.models.functionals import Ridge
from emoflax.training import scoring
from emoflax.training.step import Weights


def fit_pooled(config: ConfigDict, model: nnx.Module, train: Dataset, features: Features) -> None:
    """Standardises pooled vectors by the training rows; with config.train.start='ridge', solves for the head, too."""
    pooled_NxD, place_N = scoring.pooled(nnx.graphdef(model), Weights.of(model), train)
    (pool,) = model.fusion.pools.values()
    solved = Ridge(
        pool.width, ridges=config.model.states.ridges, classes=model.classes, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    solution = solved.fit(pooled_NxD, closed_form.labelled(config, features, train.clips, place_N))
    pool.set(solved.mean[...], solved.std[...])
    if config.train.start == "ridge":
        logging.info("head: ridge %g, UAR of left-out speakers %.3f", solution.ridge, solution.uar)
        head = model.fusion.head.logits
        head.kernel[...], head.bias[...] = solved.logits.kernel[...], solved.logits.bias[...]
