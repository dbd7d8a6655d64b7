"""Predictions of a model on disk, so that an interrupted cross-validation goes on without it."""

import dataclasses
import pathlib

import numpy as np

from emoflax.experiment.evaluate import Predictions


def write(path: pathlib.Path, key: str, predictions: Predictions) -> None:
    new = path.with_suffix(".new.npz")
    np.savez(new, key=key, **dataclasses.asdict(predictions))
    new.replace(path)  # whole or not at all


def read(path: pathlib.Path, key: str) -> Predictions | None:
    """What `write` kept, unless settings or data have changed since (`train_member` then says which)."""
    if not path.exists():
        return None
    with np.load(path) as kept:
        if str(kept["key"]) != key:
            return None
        fields = {field.name: kept[field.name] for field in dataclasses.fields(Predictions) if field.name in kept}
    return Predictions(**{name: value if value.ndim else value.item() for name, value in fields.items()})
