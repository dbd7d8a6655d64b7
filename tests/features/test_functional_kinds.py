"""Kinds of functionals: what is left for recordings of other corpora is named rightly, and is all that a fit uses."""

import numpy as np
import pytest
from flax import nnx

from emoflax.configs import functionals_cross_corpus
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.features import functional_kinds
from emoflax.models import ridge
from emoflax.models.functionals import Ridge


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("centroid.mean", {"levels"}), ("loudness.p90", {"levels"}), ("formant_1@voiced.p1", {"levels"}),
        ("semitones@voiced.mean", set()), ("semitones@voiced.part2", {"course"}), ("centroid.range", set()),
        ("energy_db.cosine4", {"course"}), ("energy_db.slope_per_s", {"course"}), ("flux.rising", set()),
        ("mel_3.std", {"bands"}), ("mfcc_0@voiced.p50", {"levels", "bands"}), ("mel_25.part0", {"course", "bands"}),
        ("slope_0_500.std", set()), ("band0.0.5hz", set()), ("log_duration", set()), ("voiced_mean_s", set()),
    ],
)  # fmt: skip
def test_a_functional_is_of_the_kinds_that_its_contour_and_statistic_say(name, kinds):
    assert name in functional_kinds.names() and functional_kinds.kinds_of(name) == kinds


def test_every_kind_has_functionals_and_leaves_others():
    whole = functional_kinds.left(())
    each = [whole & ~functional_kinds.left((kind,)) for kind in functional_kinds.KINDS]
    assert whole.all() and all(0 < own.sum() < len(whole) for own in each)
    np.testing.assert_array_equal(functional_kinds.left(functional_kinds.KINDS), whole & ~np.any(each, axis=0))


def test_a_fit_without_some_functionals_is_that_of_the_others_alone():
    random = np.random.default_rng(0)
    label = np.arange(120) % 3
    x = random.normal(size=(120, 40)).astype(np.float32) + (label[:, None] == np.arange(40) % 4)
    taken, clips = np.arange(40) % 3 > 0, ridge.Labelled.of(label, 3, np.arange(120) // 20)

    def fitted(rows, **options):
        model = Ridge(rows.shape[1], ridges=(0.3, 1.0), scale_power=1.0, classes=3, dtype=None, rngs=nnx.Rngs(0))
        return model, model.fit(rows, clips, **options)

    (some, solution), (alone, expected) = fitted(x, taken_D=taken), fitted(x[:, taken])
    other = np.where(taken, x, 100 * random.normal(size=x.shape)).astype(np.float32)
    assert solution.ridge == expected.ridge
    np.testing.assert_allclose(solution.left_out, expected.left_out, atol=1e-4)
    np.testing.assert_allclose(some(other), alone(x[:, taken]), atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"), [("functionals.kernels", 5), ("functionals.feature_set", "eGeMAPSv02"),
                         ("model.functionals", "aligned")],
)  # fmt: skip
def test_what_has_no_such_kinds_refuses_to_leave_any_out(field, value):
    config = functionals_cross_corpus.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match="leave_out=.* is about our own statistics"):
        closed_form.check(config)
