"""Rows of clips as one typed pytree: names, shapes, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emoflax.audio.frontend import LogMel
from emoflax.batch import Batch
from emoflax.data import dataset as data

# What each field's docstring says: dtype, and dimensions beside that of the rows.
FIELDS = {
    "label": ("int32", 0), "weight": ("float32", 0), "logmel": ("float32", 2), "frames": ("int32", 0),
    "wave": ("int16", 1), "samples": ("int32", 0), "scale": ("float32", 0), "tokens": ("int32", 1),
    "n_tokens": ("int32", 0),
}  # fmt: skip
LENGTHS = (7, 30, 12, 21, 9)


def dataset_of(sound, words, resident):
    rng = np.random.default_rng(0)
    frontend = LogMel(16_000, 64.0, 16.0, 4, 50.0, 8000.0) if sound == "wave" else None
    sounds = {
        "logmel": [rng.normal(size=(n, 4)).astype(np.float32) for n in LENGTHS],
        "wave": [rng.integers(-9, 9, 99 * n).astype(np.int16) for n in LENGTHS],
    }.get(sound)
    tokens = [rng.integers(1, 9, n).astype(np.int32) for n in LENGTHS] if words else None
    scales = np.ones(5, np.float32) if frontend else None
    options = {"max_frames": 20, "max_tokens": 8, "batch_size": 2, "buckets": 2, "frontend": frontend}
    return data.from_arrays(sounds, tokens, np.arange(5, dtype=np.int32), scales=scales, resident=resident, **options)


@pytest.mark.parametrize("sound", ["logmel", "wave", None])
@pytest.mark.parametrize("words", [True, False])
def test_rows_have_the_fields_of_their_modalities_in_the_documented_types(sound, words):
    if not sound and not words:
        return
    expected = {"label", "weight"} | {"logmel": {"logmel", "frames"}, "wave": {"wave", "samples", "scale"}}.get(
        sound, set()
    )
    expected |= {"tokens", "n_tokens"} if words else set()
    for made, bucket in zip(
        dataset_of(sound, words, "no").buckets, dataset_of(sound, words, "yes").buckets, strict=True
    ):
        arrays = bucket.rows.arrays()
        assert set(arrays) == expected == set(made.shapes)
        for name, array in arrays.items():
            dtype, dimensions = FIELDS[name]
            assert (array.dtype, array.ndim, len(array)) == (dtype, 1 + dimensions, len(bucket)), name
            assert (made.dtypes[name], len(made.shapes[name])) == (dtype, dimensions), name


def test_a_pytree_visits_only_the_arrays_that_are_there():
    batch = Batch(logmel=jnp.ones((2, 3, 4)), frames=jnp.array([3, 1]))
    assert len(jax.tree.leaves(batch)) == 2
    doubled = jax.jit(lambda batch: jax.tree.map(lambda x: 2 * x, batch))(batch)
    assert isinstance(doubled, Batch) and doubled.tokens is None and doubled.frames.tolist() == [6, 2]


def test_replace_leaves_the_rest_and_the_batch_itself_as_they_were():
    batch = Batch(label=jnp.array([1]), frames=jnp.array([3]))
    longer = batch.replace(frames=jnp.array([4]))
    assert longer.label is batch.label and (int(longer.frames[0]), int(batch.frames[0])) == (4, 3)
    with pytest.raises(TypeError, match="frame"):
        batch.replace(frame=jnp.array([4]))
    with pytest.raises(AttributeError):
        batch.frames = longer.frames
