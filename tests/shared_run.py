"""A small cross-validation, of two candidates and two seeds, for several processes to share."""

import json

import cli
import numpy as np

from emoflax.corpora import synthetic

FIELDS = {
    "name": "divided", "data.corpus": "synthetic", "data.dir": "voices", "data.cache_dir": "cache", "data.buckets": 1,
    "audio.mels": 8, "model.cnn.channels": (4,), "precompute.workers": 1, "train.epochs": 6, "seeds": (0, 1),
    "crossval.choose_epoch": True,
}  # fmt: skip
CANDIDATES = {"slow": {}, "fast": {"optimizer.learning_rate": 2e-2}}
MODE = ("--config=divided.py", "--mode=crossval", "--config.split.fold=1")
SHARED = (*MODE, "--config.crossval.shared=True")
RUN = "divided-synthetic-speakers5-nested"
SEEDS = 2


def make(folder):
    """A corpus and a config in the folder."""
    synthetic.make(folder / "voices", speakers=6, clips_per_emotion=1)
    (folder / "divided.py").write_text(
        f"import sys\nsys.path.insert(0, {str(cli.ROOT)!r})\nfrom emoflax.configs import tiny\n\n\ndef get_config():\n"
        f"    config = tiny.get_config()\n    config.update_from_flattened_dict({FIELDS!r})\n"
        f"    config.crossval.candidates = {CANDIDATES!r}\n    return config\n"
    )


def assert_same(folder, wanted):
    """Every prediction, choice and reported one is that of the other run."""
    folder, wanted = folder / RUN, wanted / RUN
    kept = sorted(path.relative_to(wanted) for path in wanted.glob("fold*/*/*.npz"))
    (choice,) = json.loads((wanted / "choices.json").read_text())
    final = {choice["candidate"]} | {name for name, weight in choice["weights"].items() if weight}
    assert len(kept) == SEEDS * (len(CANDIDATES) + len(final))
    for name in kept:
        ours, theirs = (np.load(run / name) for run in (folder, wanted))
        assert np.array_equal(ours["log_p"], theirs["log_p"]), name
    for name in ("choices.json", "one/predictions.csv", "ensemble/predictions.csv"):
        assert (folder / name).read_bytes() == (wanted / name).read_bytes(), name
