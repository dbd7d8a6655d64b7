"""Before the first step: weights that one program draws, and programs that are compiled ahead."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from emoflax.configs import tiny
from emoflax.experiment import model
from emoflax.experiment.model import build_model, drawn_model, model_shapes
from emoflax.experiment.train_config import train_config_of

WORDS, CLASSES = 7, 3
# Every kind of first draw: of kernels, of embeddings, uniform ones; zeros and ones.
CONFIGS = ("cnn2", "attention_cnn", "gru", "fusion_early", "bert")
SEEDS = (0, 2**31, 2**32 - 1)  # of the tiny model
ROOT = pathlib.Path(__file__).parents[2]


def bits(module):
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
            for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.state(module))[0]}  # fmt: skip


def differing(config, seed):
    """Names of the weights that one program does not draw as one operation after the other does."""
    one, other = (bits(make(config, WORDS, CLASSES, seed)) for make in (drawn_model, build_model))
    assert one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]


@pytest.fixture(scope="module")
def differences():
    """The configs and seeds, and what differs: two devices, and the optimisations that the suite goes without."""
    changed = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false", "JAX_NUM_CPU_DEVICES": "2"}
    script = "import json, tests.experiment.test_start as this; print(json.dumps(this.compared()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | changed, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compared():
    return {name: differing(importlib.import_module(f"emoflax.configs.{name}").get_config(), 3) for name in CONFIGS} | {
        str(seed): differing(tiny.get_config(), seed) for seed in SEEDS
    }


@pytest.mark.parametrize("name", [*CONFIGS, *map(str, SEEDS)])
def test_one_program_draws_the_weights_of_one_operation_after_the_other_bit_for_bit(differences, name):
    assert differences[name] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_a_drawn_model_is_compiled_for_as_one_that_was_built(name):
    config = importlib.import_module(f"emoflax.configs.{name}").get_config()
    shapes = model_shapes(config, WORDS, CLASSES)
    assert nnx.graphdef(shapes) == nnx.graphdef(build_model(config, WORDS, CLASSES, 3))


def test_seeds_and_what_no_weight_depends_on_share_one_program():
    config = tiny.get_config()
    config.model.cnn.channels = (3, 5)  # shapes of no other test
    before = model._drawn._cache_size()
    for seed in range(3):
        config.optimizer.learning_rate, config.train.label_smoothing = 0.1 + seed, 0.1 * seed
        drawn_model(config, WORDS, CLASSES, seed)
    assert model._drawn._cache_size() == before + 1
    config.model.cnn.channels = (3, 6)
    drawn_model(config, WORDS, CLASSES, 0)
    assert model._drawn._cache_size() == before + 2


def test_a_state_has_the_shapes_that_were_known_before_its_weights():
    config = tiny.get_config()
    config.train.ema = 0.9
    shapes = model_shapes(config, WORDS, CLASSES)
    ahead = train_config_of(config, shapes, 5)
    made = build_model(config, WORDS, CLASSES, 1)
    state = train_config_of(config, made, 5).init(made, 1)
    assert ahead == train_config_of(config, made, 5)
    known = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), ahead.shapes(shapes))
    assert known == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
