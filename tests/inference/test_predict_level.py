"""The same recording at another level, with an offset, or beside a dead channel gets the same probabilities."""

import numpy as np
import pytest
from toy_models import small, speech, trained, write

from emoflax.configs import attention_cnn, functionals, tiny
from emoflax.inference import recordings

CONFIGS = {
    "log-mels": small(tiny),
    "waves": small(tiny, **{"data.store": "wave"}),
    "contours": small(attention_cnn, **{"model.attention_cnn.width": 16}),
    "closed-form": small(functionals, **{"functionals.kernels": 20}),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_gain_offset_and_a_dead_channel_leave_the_probabilities_as_they_are(kind, tmp_path):
    model = trained(CONFIGS[kind], tmp_path)
    one = speech(7)
    changed = {f"gain_{db}_db": one * np.float32(10 ** (db / 20)) for db in (-40, -30, -20, -10, 0, 6)}
    changed |= {"offset": one + np.float32(0.01), "dead": np.stack([one, 0 * one], axis=1)}
    paths = [write(tmp_path / f"{name}.wav", samples) for name, samples in changed.items()]
    log_p, failures = model.log_probabilities([recordings.read(path) for path in paths])
    p = np.exp(log_p)
    assert not failures and len(set(p.argmax(1))) == 1
    np.testing.assert_allclose(p, np.broadcast_to(p[4], p.shape), atol=0.01)


def test_a_model_of_the_absolute_level_still_depends_on_it(tmp_path):
    model = trained(small(tiny, **{"audio.level": "absolute"}), tmp_path)
    paths = [write(tmp_path / f"{gain}.wav", speech(7) * np.float32(gain)) for gain in (1.0, 0.01)]
    loud, soft = np.exp(model.log_probabilities([recordings.read(path) for path in paths])[0])
    assert np.abs(loud - soft).max() > 0.01
