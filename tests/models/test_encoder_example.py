"""The encoder of docs/extending.md is complete: named by module and class it trains, is pooled, drawn, and used."""

import pathlib
import re
import sys

import cli
import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.corpora import synthetic
from emoflax.data import dataset as data
from emoflax.errors import UserError
from emoflax.experiment import checks
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training import scoring

EXTENDING = pathlib.Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """The current folder holds the example's file."""
    code = re.search(r'```python\n("""my_module\.py.*?)```', EXTENDING.read_text(), re.DOTALL).group(1)
    assert len(code.splitlines()) <= 22
    (tmp_path / "my_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return tmp_path


def test_the_encoder_of_the_example_learns_and_a_padded_batch_gives_the_same_logits_as_each_clip_alone(frames):
    config = tiny.get_config()
    config.model.update(audio="my_module:Frames", pooling="attention")
    config.audio.mels, config.train.epochs, config.optimizer.learning_rate = 8, 12, 2e-2
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40).astype(np.int32)
    logmels = [
        rng.normal(0, 1, (n, 8)).astype(np.float32) + 2 * np.eye(8, dtype=np.float32)[label]
        for n, label in zip(rng.integers(9, 40, 40), labels, strict=True)
    ]  # class k has a high level in band k
    dataset = data.from_arrays(logmels, None, labels, max_frames=99, max_tokens=8, batch_size=8, buckets=1)
    model = build_model(config, 0, 3, seed=0)
    train_config = train_config_of(config, model, dataset.buckets[0].steps)
    state = train.fit(train_config, train_config.init(model, 0), dataset, epochs=12, after_epoch=lambda *_: None)
    log_p = scoring.score(train_config.model, state, dataset)
    assert (log_p.argmax(1) == labels).mean() > 0.9

    trained = nnx.merge(train_config.model, state.params, state.statistics)
    row = dataset.buckets[0].rows
    alone = Batch(logmel=row.logmel[:1, : int(row.frames[0])], frames=row.frames[:1])
    np.testing.assert_allclose(jax.nn.log_softmax(jax.jit(trained)(alone))[0], log_p[0], rtol=1e-4, atol=1e-4)
    assert trained.audio.centres(5).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_it_trains_from_a_folder_of_ones_own_and_predicts_where_its_file_is(frames, tmp_path):
    synthetic.make(frames / "voices", speakers=5, clips_per_emotion=1)
    (frames / "mine.py").write_text(re.search(r"```python\n(from ml_collections.*?my_module:Frames.*?)```",
                                              EXTENDING.read_text(), re.DOTALL).group(1))  # fmt: skip
    flags = ("--config=mine.py", "--config.data.corpus=synthetic", "--config.data.dir=voices",
             "--config.train.epochs=1", "--config.model.Frames.width=8", "--config.precompute.workers=1")  # fmt: skip
    assert "frames on synthetic" in cli.run(*flags, cwd=frames)
    predict = ("--mode=predict", f"--checkpoint={frames}/runs/frames-synthetic-speakers5/seed0-fold1",
               f"--inputs={frames}/voices")  # fmt: skip
    assert "angry" in cli.run(*predict, cwd=frames)
    (tmp_path / "elsewhere").mkdir()
    assert "needs my_module.py" in cli.run(*predict, cwd=tmp_path / "elsewhere", status=2)
    (frames / "my_module.py").write_text((frames / "my_module.py").read_text().replace("relu", "tanh"))
    assert "other code: my_module changed" in cli.run(*predict, cwd=frames, status=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Frames", "nowhere.py, which is neither in the current folder"),
        ("my_module:Frmaes", "module my_module has no Frmaes"),
        ("my_module:np", "must be a class that inherits from flax.nnx.Module"),
        ("frames", "one of: .* or MODULE:CLASS, an encoder of your own"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_computed(frames, name, message):
    config = tiny.get_config()
    config.model.audio = name
    with pytest.raises(UserError, match=message):
        checks.prepare(config)


def test_a_setting_that_it_does_not_have_is_named(frames):
    config = tiny.get_config()
    config.model.audio, config.model.Frames = "my_module:Frames", ConfigDict({"widht": 8})
    with pytest.raises(UserError, match=r"config.model.Frames does not fit audio 'my_module:Frames'.*widht"):
        build_model(config, 0, 3, seed=0)
