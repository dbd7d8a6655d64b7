"""A small model with random weights as a bundle, for tests of what is done with one: nothing is trained."""

import json
import pathlib

import numpy as np
from flax import nnx

import emoflax
from emoflax.configs import tiny
from emoflax.experiment import evaluate, identity
from emoflax.experiment.model import build_model
from emoflax.inference import bundle
from emoflax.inference import model as inference
from emoflax.inference.member import Member
from emoflax.training.step import Weights

LABELS = ("angry", "calm", "sad")
USUAL = {"level_db": [-40, -5], "bandwidth_hz": [3_000, 8_000], "duration_s": [1, 5], "snr_db": [-10, 80]}


def write(folder: pathlib.Path, **fields) -> pathlib.Path:
    """Writes the bundle. `fields`: of the config of its only member."""
    config = tiny.get_config()
    config.update_from_flattened_dict({"model.head": 0, "data.max_s": 3.0} | fields)
    built = build_model(config, 2, len(LABELS), 0)
    built.normalise.set(np.full(config.audio.mels, -30.0), np.full(config.audio.mels, 10.0))
    description = {
        "config": json.loads(config.to_json_best_effort()), "labels": LABELS, "vocabulary": [], "corpus": "made",
        "notice": "", "protocol": "loso", "code": {part: {} for part in identity.PREDICTION_CODE}, "conditions": USUAL,
    }  # fmt: skip
    member = Member("random", 1.0, evaluate.Trained(config, description, nnx.graphdef(built), Weights.of(built)))
    index = {"name": "random", "notice": "", "corpus": "made", "emoflax": emoflax.__version__, "licences": ["MIT"]}
    check = inference.check_signal(inference.Model([member], index, "memory"))
    bundle.write(folder, [member], index, "# random weights\n", check)
    return folder
