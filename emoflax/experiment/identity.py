"""The description of a run, and whether what lies in a folder is the same run: settings, data and code."""

import json
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from emoflax import fingerprint, models
from emoflax.configs import default
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment.fields import BEFORE

if TYPE_CHECKING:
    from emoflax.training.checkpoint import Checkpoints
    from emoflax.training.step import TrainState

# Fields of config that may change between two runs of one command: none of them changes the weights.
NOT_COMPARED = (
    "data.dir", "data.root", "data.cache_dir", "data.resident", "precompute", "states.weights", "states.batch",
    "probe", "seeds", "split.fold", "crossval.workers", "crossval.shared", "crossval.final", "crossval.calibrate",
    "train.population", "profile_steps", "evaluate", "fit", "report", "log",
)  # fmt: skip
_CODE = ("features", "precompute", "model", "training")
PREDICTION_CODE = ("features", "model")  # of these, what predictions are made with
# Of the modules that make rows of features, those whose code changes no number.
_NOT_IN_ROWS = (
    "emoflax.data.clip", "emoflax.data.joined_shards", "emoflax.data.shards", "emoflax.data.splits",
    "emoflax.data.stream",
)  # fmt: skip
_MODEL_PACKAGES = ("emoflax.models", "emoflax.audio", "emoflax.masks")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")  # on which the last digits depend


def describe(config: ConfigDict, features: Features, split: Split, seed: int, vocabulary: Sequence[str]) -> dict:
    """The description in a checkpoint: enough to rebuild the model and its features."""
    return known_before_features(config, features.corpus, split, seed) | {
        "vocabulary": list(vocabulary),
        "features": features.fingerprints,
        "code": {**features_code(features), "model": model_code(config), "training": training_code()},
    }


def known_before_features(config: ConfigDict, corpus: Corpus, split: Split, seed: int) -> dict:
    """The part of a description for which no features have to be computed."""
    own = config.copy_and_resolve_references()
    own.crossval.candidates, own.sweep, own.fit = {}, ConfigDict(), ConfigDict()  # other models' settings
    own.log.mlflow = ""  # an address is no one else's business
    return {
        "config": json.loads(own.to_json_best_effort()),
        "corpus": corpus.name,
        "notice": corpus.notice,
        "labels": list(corpus.labels),
        "protocol": split.protocol,
        "fold": split.fold,
        "seed": seed,
        "libraries": fingerprint.versions(*_LIBRARIES),
    }


def features_code(features: Features) -> dict[str, dict[str, str]]:
    """{'features', 'precompute'}: module -> hash of the code that makes features and rows, and shards of them."""
    rows = fingerprint.of_modules(["emoflax.data.dataset"], within=("emoflax.data",))
    every = {name: code for name, code in rows.items() if name not in _NOT_IN_ROWS}
    for shards in features.shards.values():
        every |= shards.manifest["settings"].get("code", {})
    precompute = {name: code for name, code in every.items() if name.startswith("emoflax.precompute.")}
    return {"features": {name: every[name] for name in every.keys() - precompute.keys()}, "precompute": precompute}


def model_code(config: ConfigDict) -> dict[str, str]:
    """Module -> hash of the code of the config's model: other models' modules do not count."""
    model = config.model
    if model.functionals:
        parts = {"functionals": models.FUNCTIONALS_MODELS}
    else:
        parts = {"audio": models.AUDIO_ENCODERS, "text": models.TEXT_ENCODERS, "pooling": models.POOLINGS,
                 "fusion": models.FUSIONS}  # fmt: skip
    classes = [models.Classifier, *(models.class_of(registry, model[part]) for part, registry in parts.items())]
    modules = {each.__module__ for each in classes if each}  # models.build refuses a name that is not in its registry
    if model.audio and config.data.store == "wave":
        modules.add("emoflax.audio.frontend")
    if model.audio and model.pcen.time_s:
        modules.add("emoflax.audio.pcen")
    if model.audio and model.layers:
        modules.add("emoflax.models.layer_outputs")
    if model.lora.rank:
        modules.add("emoflax.models.lora")
    return fingerprint.of_modules(modules, within=_MODEL_PACKAGES)


def training_code() -> dict[str, str]:
    """Module -> hash of the code of a train step."""
    return fingerprint.of_modules(["emoflax.training.step"], within=("emoflax.training", "emoflax.audio"))


def compared(description: dict, but: Collection[str] = NOT_COMPARED) -> dict:
    """The identity: a description without the config's fields in `but`, which change nothing."""

    def kept(values: Any, path: str) -> Any:
        if not isinstance(values, dict):
            return values
        inner = {name: f"{path}{name}" for name in values}
        return {name: kept(values[name], f"{at}.") for name, at in inner.items() if at not in but}

    return description | {"config": kept(description["config"], "")}


def unusual(config: ConfigDict) -> dict[str, Any]:
    """The fields that decide a model's weights and are not as configs/default.py has them, by their dotted names."""
    own, usual = (
        flatten_dict(compared({"config": c.to_dict()})["config"], sep=".") for c in (config, default.get_config())
    )
    return {name: value for name, value in own.items() if value != usual.get(name)}


def key(description: dict) -> str:
    """The identity of a model's predictions, as text. Test-time augmentation changes them, though not the weights."""
    return json.dumps(compared(description, set(NOT_COMPARED) - {"evaluate"}), sort_keys=True)


def check(checkpoints: "Checkpoints", description: dict) -> int | None:
    """The latest epoch on disk, from which training goes on; None where there is none.

    Args:
      description: of the run that would go on, or what is known of it before features are computed.

    Raises:
      UserError: the folder holds a run with other settings or other data, or one made by other code.
    """
    epoch = checkpoints.latest()
    if epoch is not None:
        there, folder = checkpoints.describe(epoch), checkpoints.folder.parent
        changed = differences(there, description)
        # Other code makes other features: the module that changed says more than their hashes.
        if all(field.startswith("features.") for field in changed):
            check_code(there, str(folder))
        if changed:
            raise UserError(
                f"{folder} holds a run with other settings ({'; '.join(changed[:4])}); choose another --workdir or "
                "config.name, or delete that folder"
            )
    return epoch


def check_early(config: ConfigDict, corpus: Corpus, folder: pathlib.Path, split: Split, seed: int) -> None:
    """`check` of all that is known before features are computed, which may take long."""
    from emoflax.training.checkpoint import Checkpoints  # orbax takes a second; prediction does without

    check(Checkpoints(folder), known_before_features(config, corpus, split, seed))


def check_code(there: dict, where: str, parts: Sequence[str] = _CODE) -> None:
    """Raises UserError if those parts of a checkpoint's code are not today's.

    Args:
      there: the description in the checkpoint.
      where: the folder that the error names.
    """
    modules = {name: code for part in parts for name, code in there["code"][part].items()}
    if changed := fingerprint.changed(modules):
        raise UserError(
            f"{where} was trained with other code: {', '.join(changed[:4])} changed since, so results would be those "
            "of neither version; train again in another --workdir, or delete that folder, or go back to that code"
        )


def resume(checkpoints: "Checkpoints", epoch: int, fresh: "TrainState") -> tuple["TrainState", float]:
    """(state, seconds spent) after that epoch, which `check` returned; the fresh state if it is 0."""
    if not epoch:
        return fresh, 0.0
    logging.info("resuming %s after epoch %d", checkpoints.folder.parent, epoch)
    return checkpoints.restore_state(epoch, fresh), checkpoints.describe(epoch)["clock_s"]


def differences(there: dict, here: dict) -> list[str]:
    """What differs between the identities of two descriptions, as 'field: then -> now'; of what `here` has.

    A field of the config that `there` does not have came later, and is what it was before
    (`fields.BEFORE`). Code is compared by `check_code`.
    """
    then = default.get_config()
    then.update_from_flattened_dict(BEFORE)
    there = _filled({"config": json.loads(then.to_json_best_effort())}, there)
    here = {name: value for name, value in compared(here).items() if name != "code"}
    return _differences(there, here, "")


def _filled(defaults: dict, values: dict) -> dict:
    inner = {name: _filled(defaults[name], value) for name, value in values.items()
             if isinstance(value, dict) and isinstance(defaults.get(name), dict)}  # fmt: skip
    return {**defaults, **values, **inner}


def _differences(there: dict, here: dict, prefix: str) -> list[str]:
    differing = []
    for name, now in here.items():
        path, then = f"{prefix}{name}", there.get(name)
        if isinstance(now, dict) and isinstance(then, dict):
            differing += _differences(then, now, f"{path}.")
        elif json.dumps(then) != json.dumps(now):
            differing.append(f"{path}: {then} -> {now}" if len(str(then)) < 60 else path)
    return differing
