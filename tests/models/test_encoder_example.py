"""The encoder of docs/extending.md is complete: put into the registry it trains, is pooled, and can be drawn."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest
from flax import nnx

from emoflax import models
from emoflax.batch import Batch
from emoflax.configs import tiny
from emoflax.data import dataset as data
from emoflax.experiment.model import build_model
from emoflax.experiment.train_config import train_config_of
from emoflax.training import loop as train
from emoflax.training import scoring

EXTENDING = pathlib.Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def frames(tmp_path, monkeypatch):
    code = re.search(r'```python\n("""emoflax/models/frames\.py.*?)```', EXTENDING.read_text(), re.DOTALL).group(1)
    assert len(code.splitlines()) <= 22
    path = tmp_path / "frames.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("frames", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(models.AUDIO_ENCODERS, "frames", module.Frames)


def test_the_encoder_of_the_example_learns_and_a_padded_batch_gives_the_same_logits_as_each_clip_alone(frames):
    config = tiny.get_config()
    config.model.update(audio="frames", pooling="attention")
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
