"""Whether what lies in a folder is the same run. (Resuming itself: test_resume.py.)"""

import copy
import json

import pytest

from emoflax import fingerprint
from emoflax.configs import tiny
from emoflax.errors import UserError
from emoflax.experiment import checks, identity


def described(**fields):
    config = tiny.get_config()
    config.update_from_flattened_dict(fields)
    code = {"features": {}, "precompute": {}, "model": identity.model_code(config), "training": {}}
    return {"config": json.loads(config.to_json_best_effort()), "corpus": "c", "seed": 0, "code": code}


class Saved:
    """A checkpoint folder with one epoch, of that description."""

    def __init__(self, folder, description):
        self.folder, self.description = folder / "checkpoints", description

    def latest(self):
        return 1

    def describe(self, epoch):
        return self.description


UNIMPORTANT = {
    "crossval.workers": 4, "precompute.workers": 3, "data.cache_dir": "elsewhere", "profile_steps": (1, 2),
    "train.population": 8, "data.resident": "no", "probe.ridges": (1.0,),
}  # fmt: skip


def test_a_run_older_than_a_field_is_the_same_run_unless_the_field_is_used_now():
    older = copy.deepcopy(described())
    del older["config"]["model"]["pcen"], older["config"]["train"]["contrastive"]
    assert identity.differences(older, described()) == []
    assert identity.differences(older, described(**{"model.pcen.time_s": 0.4, "train.contrastive": 0.5})) == [
        "config.model.pcen.time_s: 0.0 -> 0.4", "config.train.contrastive: 0.0 -> 0.5",
    ]  # fmt: skip


def test_a_run_older_than_the_normalised_level_was_made_at_the_absolute_one():
    older = copy.deepcopy(described())
    del older["config"]["audio"]["level"]
    assert checks.config_of(older["config"]).audio.level == "absolute"
    assert identity.differences(older, described(**{"audio.level": "absolute"})) == []
    assert identity.differences(older, described()) == ["config.audio.level: absolute -> normalised"]


def test_what_changes_no_weights_is_not_compared_and_what_else_differs_is_named():
    assert identity.differences(described(), described(seeds=(4,), **{"evaluate.speeds": (0.9,)})) == []
    assert identity.differences(described(), described() | {"seed": 1}) == ["seed: 0 -> 1"]


@pytest.mark.parametrize("field", UNIMPORTANT)
def test_a_field_that_changes_nothing_changes_no_key(field):
    changed = described(**{field: UNIMPORTANT[field]})
    assert identity.differences(described(), changed) == []
    assert identity.key(described()) == identity.key(changed)


@pytest.mark.parametrize("field", ["evaluate.speeds", "optimizer.learning_rate", "crossval.choose_epoch"])
def test_a_field_that_changes_predictions_changes_their_key(field):
    value = {"evaluate.speeds": (0.9,), "crossval.choose_epoch": True}.get(field, 0.5)
    assert identity.key(described()) != identity.key(described(**{field: value}))


def test_other_code_changes_the_key_and_is_refused_by_its_name(tmp_path):
    there = described()
    there["code"]["model"]["emoflax.models.cnn"] = "0" * 16
    assert identity.key(there) != identity.key(described())
    with pytest.raises(UserError, match="other code: emoflax.models.cnn changed since.*another --workdir"):
        identity.check(Saved(tmp_path, there), described())
    assert identity.check(Saved(tmp_path, described()), described()) == 1


def test_predictions_do_not_depend_on_the_code_that_trains(tmp_path):
    there = described()
    there["code"]["training"]["emoflax.training.losses"] = "0" * 16
    identity.check_code(there, "run", identity.PREDICTION_CODE)
    with pytest.raises(UserError, match="emoflax.training.losses"):
        identity.check_code(there, "run")


def test_other_features_are_explained_by_the_code_that_made_them(tmp_path):
    there, here = (described() | {"features": {"logmel": value}} for value in "ab")
    with pytest.raises(UserError, match="features.logmel: a -> b"):
        identity.check(Saved(tmp_path, there), here)
    there["code"]["features"] = fingerprint.of_modules(["emoflax.audio.channels"], ()) | {"emoflax.features.kaldi": "0"}
    with pytest.raises(UserError, match="other code: emoflax.features.kaldi changed since"):
        identity.check(Saved(tmp_path, there), here)
