"""Streamed from shards or held in memory: the same training, in bounded memory."""

import itertools
import pathlib
import subprocess
import sys
import types

import cli
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emoflax.configs import tiny
from emoflax.data import dataset as data
from emoflax.data import rows, shards, stream
from emoflax.errors import UserError
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training import monitor, scoring

CLASSES = 3


def clips(count=37, mels=8):
    """Log-mels of different lengths, words (some clips have none) and labels."""
    rng = np.random.default_rng(5)
    logmels = [rng.normal(0, 1, (n, mels)).astype(np.float32) for n in rng.integers(9, 60, count)]
    tokens = [rng.integers(1, 9, n).astype(np.int32) for n in rng.integers(0, 7, count)]
    return logmels, tokens, rng.integers(0, CLASSES, count).astype(np.int32)


def dataset(resident, buckets=2, batch_size=4):
    options = {"max_frames": 40, "max_tokens": 6, "batch_size": batch_size, "buckets": buckets, "resident": resident}
    return data.from_arrays(*clips(), **options)


def fit(found, epochs, profile=None):
    config = tiny.get_config()
    config.audio.mels, config.model.cnn.channels, config.model.head, config.train.ema = 8, (2,), 0, 0.9
    model = build_model(config, 7, CLASSES, seed=0)
    train_config = train_config_of(config, model, found.steps)
    losses = []
    state = train.fit(
        train_config, train_config.init(model, 0), found, epochs=epochs, profile=profile,
        after_epoch=lambda *seen: losses.append(seen[2]["loss"]),
    )  # fmt: skip
    return train_config, state, losses


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_streamed_training_is_resident_training_bit_for_bit(monkeypatch):
    placed, streamed = dataset("yes"), dataset("no")
    assert streamed.streamed and len(streamed.buckets) == 2 and streamed.steps % 2 == 0
    # An epoch is two chunks, with batches of both buckets.
    monkeypatch.setattr(stream, "CHUNK_BYTES", stream.CHUNK_BYTES * streamed.steps // 2
                        // stream.steps_of_a_chunk(streamed.buckets))  # fmt: skip
    assert stream.steps_of_a_chunk(streamed.buckets) == streamed.steps // 2
    train_config, state, losses = fit(placed, epochs=2)
    _, same, same_losses = fit(streamed, epochs=2)
    assert losses == same_losses and equal(state, same)
    np.testing.assert_array_equal(*(scoring.score(train_config.model, state, found) for found in (placed, streamed)))


def test_a_profiled_run_trains_the_same_and_leaves_a_trace(tmp_path):
    found = dataset("yes", buckets=1, batch_size=30)
    assert found.steps == 2
    _, state, losses = fit(found, 1, monitor.Profile(tmp_path, (1, 2)))
    _, same, same_losses = fit(found, 1)
    assert losses == pytest.approx(same_losses, rel=1e-6) and int(state.step) == int(same.step) == 2
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_steps_to_profile_are_two():
    for steps in ((1,), (3, 3), (5, 2), (-1, 2), (0.0, 2.0)):
        with pytest.raises(UserError, match="config.profile_steps"):
            monitor.Profile(None, steps)


def test_rows_are_the_same_made_when_asked_for_and_placed():
    for made, placed in zip(dataset("no").buckets, dataset("yes").buckets, strict=True):
        assert (len(made), made.steps, made.batch_size) == (len(placed), placed.steps, placed.batch_size)
        backwards = np.arange(len(made))[::-1]
        for name, array in placed.rows.arrays().items():
            np.testing.assert_array_equal(made.array(name, backwards), np.asarray(array)[::-1], err_msg=name)
            assert made.dtypes[name] == array.dtype


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_the_batches_of_a_bucket_hold_every_row_once_on_any_number_of_devices(count, batch_size, devices):
    steps, mesh = -(-count // batch_size), types.SimpleNamespace(size=devices)
    found = [rows.batch_places(slot, batch_size, count, mesh) for slot in range(steps)]
    assert list(itertools.chain(*(places[counts] for places, counts in found))) == list(range(count))
    assert {len(places) for places, _ in found} == {-(-batch_size // devices) * devices}
    assert max(places.max() for places, _ in found) == count - 1


def test_what_fits_is_a_share_of_memory():
    assert stream.fits(2**20, None) and not stream.fits(2**50, None)
    with pytest.raises(UserError, match="config.data.resident='maybe'"):
        dataset("maybe")


def test_a_thread_that_fails_ends_training_with_its_own_error():
    found = dataset("no").buckets[0]
    broken = rows.Rows(found.columns, {"logmel": rows.Padded(fail, (40, 8), np.dtype("f4"))}, 5, None)
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream.chunks([broken], [np.arange(len(broken))], [np.array([[0, 0]])]))


def fail(place):
    raise OSError("the disk is gone")


def test_reading_many_shards_leaves_memory_as_it_was(tmp_path):
    """600 MB of clips, read twice; they are holes in files."""
    script = (
        "import pathlib, resource, sys, numpy as np\n"
        "from emoflax.benchmark import memory, streaming\nfrom emoflax.data.shards import ShardSet\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "streaming.write_silence(folder, np.full(6_000, 400), 64)\n"
        "found = ShardSet.open(folder)\nbefore = memory.peak_mib()\n"
        "order = np.random.default_rng(0).permutation(len(found))\n"
        "assert not any(found[clip].sum() for _ in range(2) for clip in order)\n"
        "print(sum(clip.nbytes for clip in (found[i] for i in order)) / 2**20, memory.peak_mib() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=cli.ROOT, check=True, timeout=120, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    read_mib, grown_mib = map(float, done.stdout.split())
    assert read_mib > 580 and grown_mib < 1.3 * shards._MAPPED_BYTES / 2**20
    assert sum(path.stat().st_blocks * 512 for path in pathlib.Path(tmp_path).iterdir()) < 2**24
