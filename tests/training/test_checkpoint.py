"""What is restored is what was saved, bit for bit, and anything else is refused or passed over with a warning."""

import dataclasses
import json
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from emoflax.configs import tiny
from emoflax.errors import DivergedError, UserError
from emoflax.experiment import evaluate, identity
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training import checkpoint, checksums
from emoflax.training.checkpoint import Checkpoints, open_existing, parts_of
from emoflax.training.step import Weights

FLIPS = 110


def config_of(**fields):
    config = tiny.get_config()
    config.audio.mels = 8
    config.update_from_flattened_dict(fields)
    return config


def state_of(ema=0.0, epoch=0):
    """A training state in which every number differs from every other state's."""
    config = config_of(**{"train.ema": ema})
    model = build_model(config, 0, 3, seed=epoch)
    state = train_config_of(config, model, steps_per_epoch=2).init(model, epoch)
    rng = np.random.default_rng(epoch)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if leaf.dtype == jnp.float32 else leaf + epoch

    return jax.tree.map(draw, state)


def description_of(epoch):
    modules = {"features": {}, "precompute": {}, "training": identity.training_code()}
    return {"config": json.loads(config_of().to_json_best_effort()), "labels": ["a", "b", "c"], "vocabulary": [],
            "code": {**modules, "model": identity.model_code(config_of())}, "epoch": epoch, "clock_s": 1.0}  # fmt: skip


def save(folder, scores, ema=0.0):
    """Epochs 1, 2, ... with those scores."""
    with Checkpoints(folder) as checkpoints:
        for epoch, score in enumerate(scores, 1):
            checkpoints.save(epoch, description_of(epoch), score, *parts_of(state_of(ema, epoch)))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "checkpoints", [0.2, 0.9, 0.1, 0.3])


@pytest.fixture
def folder(saved, tmp_path):
    """Epochs 2, the best one, 3 and 4."""
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.fixture
def warnings(monkeypatch):
    seen = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: seen.append(text % values))
    return seen


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flip_random_bit(path, draw):
    flip(path, draw.randrange(8 * path.stat().st_size))


def flip_in(folder):
    """Flips a bit of the largest file; the file."""
    path = max(files_of(folder), key=lambda path: path.stat().st_size)
    flip_random_bit(path, random.Random(0))
    return path


def assert_equal(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True), one, other)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_state_comes_back_bit_for_bit_and_no_array_is_written_twice(tmp_path, ema):
    folder = save(tmp_path, [0.5], ema)
    state = state_of(ema, epoch=1)
    checkpoints = open_existing(folder)
    assert_equal(checkpoints.restore_state(1, state_of(ema)), state)
    assert_equal(checkpoints.restore_model(1, state_of(ema).weights), Weights(state.evaluated, state.statistics))
    assert checkpoints.describe(1) == description_of(1)
    model, training = parts_of(state)
    assert len(jax.tree.leaves((model, training))) == len(jax.tree.leaves(state))


def test_a_model_without_training_state_is_saved_and_restored(tmp_path):
    model = Weights({"a": jnp.arange(3.0)}, {})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"name": "ridge"}, 0.5, model)
    assert_equal(open_existing(tmp_path).restore_model(1, model), model)
    assert not (tmp_path / "1" / "training").exists()


def test_the_two_latest_epochs_and_the_best_are_kept_and_every_file_has_a_checksum(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3", "4"]
    checkpoints = open_existing(folder)
    assert (checkpoints.best(), checkpoints.latest()) == (2, 4)
    listed = {line.split("  ")[1] for line in (folder / "4" / checksums.NAME).read_text().splitlines()[1:]}
    there = {path.relative_to(folder / "4").as_posix() for path in files_of(folder / "4")}
    assert listed == there - {checksums.NAME} and {name.split("/")[0] for name in listed} >= {
        "model", "training", "description", "metrics", "_CHECKPOINT_METADATA",
    }  # fmt: skip


def test_not_one_of_110_random_bits_is_flipped_without_an_error_that_names_the_file(folder):
    shutil.rmtree(folder / "3")
    shutil.rmtree(folder / "4")
    draw, files = random.Random(7), files_of(folder)
    assert {path.relative_to(folder / "2").parts[0] for path in files} >= {
        "model", "training", "description", "metrics", "_CHECKPOINT_METADATA", checksums.NAME,
    }  # fmt: skip
    for path in (files[number % len(files)] for number in range(FLIPS)):  # each of about 40 files two or three times
        whole = path.read_bytes()
        flip_random_bit(path, draw)
        for choose in (Checkpoints.latest, Checkpoints.best):
            with pytest.raises(UserError, match=f"{path} is damaged: .*no other whole checkpoint"):
                choose(open_existing(folder))
        path.write_bytes(whole)
    assert open_existing(folder).latest() == 2


@pytest.mark.parametrize(
    "name", ["description/metadata", "metrics/metrics", "_CHECKPOINT_METADATA", "training/manifest.ocdbt"]
)
def test_predict_and_resume_refuse_a_flipped_bit_wherever_it_is(folder, name):
    for epoch in (3, 4):
        shutil.rmtree(folder / str(epoch))
    assert evaluate.restore(folder).description == description_of(2)
    assert identity.check(Checkpoints(folder), {"config": {}}) == 2
    flip(folder / "2" / name, 9)
    for read in (evaluate.restore, lambda folder: identity.check(Checkpoints(folder), {"config": {}})):
        with pytest.raises(UserError, match=f"{folder / '2' / name} is damaged: its checksum is wrong"):
            read(folder)


def test_a_damaged_latest_epoch_is_passed_over_with_a_warning(folder, warnings):
    damaged = flip_in(folder / "4" / "model")
    assert open_existing(folder).latest() == 3
    assert warnings == [f"{damaged} is damaged: its checksum is wrong; epoch 3 is used in the place of epoch 4"]
    assert evaluate.restore(folder, last=True).description["epoch"] == 3


@pytest.mark.parametrize("item", ["model", "metrics"])
def test_a_damaged_best_epoch_is_passed_over_with_a_warning(folder, warnings, item):
    damaged = flip_in(folder / "2" / item)
    assert evaluate.restore(folder).description["epoch"] == 4  # whose score is the next best
    assert warnings == [f"{damaged} is damaged: its checksum is wrong; epoch 4 is used in the place of epoch 2"]


def test_a_missing_file_is_named_and_an_additional_one_does_no_harm(folder, warnings):
    (folder / "4" / "note.txt").write_text("mine")
    assert open_existing(folder).latest() == 4
    (folder / "4" / "description" / "metadata").unlink()
    assert open_existing(folder).latest() == 3
    assert f"{folder / '4' / 'description' / 'metadata'} is damaged: it is missing" in warnings[0]


def test_training_goes_on_from_the_last_whole_epoch_and_writes_the_damaged_one_again(folder, warnings):
    flip_in(folder / "4" / "training")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 3
        assert (folder / "4").is_dir()  # nothing is removed before something is written
        checkpoints.save(4, description_of(4), 0.3, *parts_of(state_of(epoch=4)))
    assert open_existing(folder).latest() == 4
    assert_equal(open_existing(folder).restore_state(4, state_of()), state_of(epoch=4))


def test_an_epoch_whose_checksums_were_not_written_is_no_checkpoint_and_older_ones_outlive_it(folder, monkeypatch):
    def killed(_):
        raise OSError("killed")

    monkeypatch.setattr(checksums, "write", killed)
    checkpoints = Checkpoints(folder)
    checkpoints.save(5, description_of(5), 0.4, *parts_of(state_of(epoch=5)))
    with pytest.raises(UserError, match="could not be written.*killed"):
        checkpoints.close()
    monkeypatch.undo()
    assert (folder / "5").is_dir() and open_existing(folder).latest() == 4 and open_existing(folder).best() == 2
    with Checkpoints(folder) as again:
        again.save(5, description_of(5), 0.4, *parts_of(state_of(epoch=5)))
    assert open_existing(folder).latest() == 5
    shutil.rmtree(folder)
    (folder / "1").mkdir(parents=True)
    assert Checkpoints(folder).latest() is None


def test_a_checkpoint_of_the_format_without_checksums_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "3" / "state").mkdir(parents=True)
    for look in (open_existing, lambda folder: Checkpoints(folder).latest()):
        with pytest.raises(UserError, match="earlier version, without checksums.*train again"):
            look(tmp_path)


def test_what_cannot_be_read_is_not_called_damaged(folder):
    path = folder / "4" / "description" / "metadata"
    path.unlink()
    os.symlink(path, path)  # root may read everything, but nobody a link to itself
    with pytest.raises(UserError, match=f"cannot read {path}") as raised:
        open_existing(folder).latest()
    assert "damaged" not in str(raised.value)


def test_an_epoch_that_a_training_removes_meanwhile_is_not_called_damaged(folder):
    checkpoints = open_existing(folder)
    assert checkpoints.latest() == 4
    shutil.rmtree(folder / "4")
    with pytest.raises(UserError, match="cannot read epoch 4.*a training at work") as raised:
        checkpoints.restore_model(4, state_of().weights)
    assert "damaged" not in str(raised.value)


def test_a_model_of_another_shape_is_named_as_that(folder, capfd):
    other = build_model(config_of(**{"model.cnn.channels": (4, 4)}), 0, 3, seed=0)
    with pytest.raises(UserError, match=r"blocks.1.bias.value is float32 \(8,\) in the checkpoint") as raised:
        open_existing(folder).restore_model(4, Weights.of(other))
    assert "damaged" not in str(raised.value) and "Event loop" not in capfd.readouterr().err


@pytest.mark.parametrize("field", ["params", "statistics", "opt_state"])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path, field):
    state = state_of()
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else leaf, getattr(state, field))
    with pytest.raises(DivergedError, match="not finite"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, description_of(1), 0.5, *parts_of(dataclasses.replace(state, **{field: bad})))
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused_whoever_saved_them(tmp_path, monkeypatch):
    state = state_of()
    bad = jax.tree.map(lambda leaf: leaf * jnp.inf, state.params)
    monkeypatch.setattr(checkpoint, "_not_finite", lambda tree: "")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, description_of(1), 0.5, *parts_of(dataclasses.replace(state, params=bad)))
    monkeypatch.undo()
    with pytest.raises(UserError, match="params.audio.*not finite; train again"):
        evaluate.restore(tmp_path)


def test_what_ends_a_run_is_reported_even_if_the_last_checkpoint_cannot_be_written(folder, monkeypatch):
    def refuse(_):
        raise OSError("no room")

    monkeypatch.setattr(checksums, "write", refuse)
    with pytest.raises(DivergedError, match="loss is nan"), Checkpoints(folder) as checkpoints:
        checkpoints.save(5, description_of(5), 0.4, *parts_of(state_of(epoch=5)))
        raise DivergedError("loss is nan")
    assert checkpoints._writer is None
