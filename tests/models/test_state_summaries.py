"""Statistics over a clip's time: those of its own steps, whatever it is padded with."""

import numpy as np

from emoflax.models.states import summarise

LENGTHS = [1, 3, 8, 11]


def test_mean_deviation_and_parts_are_those_of_the_clips_own_steps():
    rng = np.random.default_rng()
    layers = [rng.normal(3, 2, size=(len(LENGTHS), 11, 5)).astype(np.float32) for _ in range(2)]
    mask = np.arange(11)[None] < np.array(LENGTHS)[:, None]
    summaries = np.asarray(summarise(layers, mask, parts=4))
    assert summaries.shape == (4, 2, 6, 5)
    for clip, steps in enumerate(LENGTHS):
        for layer, outputs in enumerate(layers):
            own = outputs[clip, :steps].astype(np.float64)
            part = np.arange(steps) * 4 // steps
            parts = [own[part == p].mean(0) if np.any(part == p) else own.mean(0) for p in range(4)]
            np.testing.assert_allclose(summaries[clip, layer], [own.mean(0), own.std(0), *parts], atol=1e-5)


def test_a_clip_without_steps_has_zeros():
    assert not np.any(summarise([np.ones((1, 4, 2), np.float32)], np.zeros((1, 4), bool), parts=2))
