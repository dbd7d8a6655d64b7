"""Whether what lies in a folder is the same run. (Resuming itself: test_resume.py.)"""

import copy
import json

from emoflax.configs import tiny
from emoflax.experiment import identity


def described(**fields):
    config = tiny.get_config()
    config.update_from_flattened_dict(fields)
    return {"config": json.loads(config.to_json_best_effort()), "corpus": "c", "seed": 0}


def test_a_run_older_than_a_field_is_the_same_run_unless_the_field_is_used_now():
    older = copy.deepcopy(described())
    del older["config"]["model"]["pcen"], older["config"]["train"]["contrastive"]
    assert identity.differences(older, described()) == []
    assert identity.differences(older, described(**{"model.pcen.time_s": 0.4, "train.contrastive": 0.5})) == [
        "config.model.pcen.time_s: 0.0 -> 0.4", "config.train.contrastive: 0.0 -> 0.5",
    ]  # fmt: skip


def test_what_changes_no_weights_is_not_compared_and_what_else_differs_is_named():
    assert identity.differences(described(), described(seeds=(4,), **{"evaluate.speeds": (0.9,)})) == []
    assert identity.differences(described(), described() | {"seed": 1}) == ["seed: 0 -> 1"]
