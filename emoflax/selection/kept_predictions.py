"""Predictions of a model on disk, so that an interrupted cross-validation goes on without it."""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from emoflax.experiment.evaluate import Predictions
from emoflax.files import read_arrays


def write(path: pathlib.Path, key: str, predictions: Predictions) -> None:
    new = path.with_suffix(".new.npz")
    np.savez(new, key=key, **dataclasses.asdict(predictions))
    new.replace(path)  # whole or not at all


def read(path: pathlib.Path, key: str) -> Predictions | None:
    """What `write` kept, unless it is damaged, or settings or data have changed since (`train_member` says which)."""
    if not path.exists():
        return None
    try:
        kept = read_arrays(path)
        if str(kept["key"]) != key:
            return None
        fields = {field.name: kept[field.name] for field in dataclasses.fields(Predictions) if field.name in kept}
        return Predictions(**{name: value if value.ndim else value.item() for name, value in fields.items()})
    except (ValueError, LookupError, TypeError):
        logging.warning("%s is damaged: its model predicts these clips again", path)
        return None
