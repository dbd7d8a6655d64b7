"""What a run says about itself, and whether what lies in a folder is the same run."""

import json
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from emoflax.configs import default
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.training.checkpoint import Checkpoints
from emoflax.training.step import TrainState

# May change between two runs of one command: none of them changes the weights.
NOT_COMPARED = (
    "data.dir", "data.cache_dir", "data.resident", "precompute", "seeds", "split.fold", "crossval.workers",
    "crossval.final", "train.population", "profile_steps", "evaluate",
)  # fmt: skip


def describe(config: ConfigDict, features: Features, split: Split, seed: int, vocabulary: Sequence[str]) -> dict:
    """What a checkpoint says about itself; enough to rebuild the model and its features."""
    corpus, own = features.corpus, config.copy_and_resolve_references()
    own.crossval.candidates, own.sweep = {}, ConfigDict()  # other models' settings
    return {
        "config": json.loads(own.to_json_best_effort()),
        "corpus": corpus.name,
        "notice": corpus.notice,
        "labels": list(corpus.labels),
        "vocabulary": list(vocabulary),
        "features": features.fingerprints,
        "protocol": split.protocol,
        "fold": split.fold,
        "seed": seed,
    }


def resume(checkpoints: Checkpoints, state: TrainState, description: dict) -> tuple[TrainState, int, float]:
    """(state, epochs done, seconds spent) of the latest checkpoint, or the fresh state.

    Raises:
      UserError: the folder holds a run with other settings or other data.
    """
    epoch = checkpoints.latest()
    if epoch is None:
        return state, 0, 0.0
    there = checkpoints.describe(epoch)
    if changed := differences(there, description):
        raise UserError(
            f"{checkpoints.folder.parent} holds a run with other settings ({'; '.join(changed[:4])}); "
            "choose another --workdir or config.name, or delete that folder"
        )
    logging.info("resuming %s after epoch %d", checkpoints.folder.parent, epoch)
    return checkpoints.restore(epoch, state), epoch, there["clock_s"]


def differences(there: dict, here: dict) -> list[str]:
    """Fields whose values differ between two descriptions, as 'field: then -> now'.

    A field of the config that `there` does not have came later, and changed nothing at its default.
    """
    return _differences(_filled({"config": json.loads(default.get_config().to_json_best_effort())}, there), here, "")


def _filled(defaults: dict, values: dict) -> dict:
    inner = {name: _filled(defaults[name], value) for name, value in values.items()
             if isinstance(value, dict) and isinstance(defaults.get(name), dict)}  # fmt: skip
    return {**defaults, **values, **inner}


def _differences(there: dict, here: dict, prefix: str) -> list[str]:
    found = []
    for name, now in here.items():
        path = f"{prefix}{name}"
        if path.removeprefix("config.") in NOT_COMPARED:
            continue
        then = there.get(name)
        if isinstance(now, dict) and isinstance(then, dict):
            found += _differences(then, now, f"{path}.")
        elif json.dumps(then) != json.dumps(now):
            found.append(f"{path}: {then} -> {now}" if len(str(then)) < 60 else path)
    return found
