"""Checkpoints that describe themselves. The only file that imports orbax.

A checkpoint folder keeps the latest epoch, from which training resumes, and the best on dev, which is evaluated. Each
holds the arrays of the training state and a JSON description from which the model is rebuilt without any config file.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from emoflax.errors import UserError


class Checkpoints:
    """Checkpoints of one run, numbered by epoch."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        # max_to_keep with best_fn would delete the newest epoch, and resume with it.
        policy = keep.AnyPreservationPolicy(
            [keep.LatestN(1), keep.BestN(get_metric_fn=lambda scores: scores["score"], n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=lambda scores: scores["score"], enable_async_checkpointing=True
        )
        try:
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --workdir") from error

    def save(self, epoch: int, state: Any, description: dict, score: float) -> None:
        """Writes in the background, atomically: a kill at any moment leaves whole checkpoints only."""
        # The next epoch donates these buffers while they are still being written: write a copy.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)), description=ocp.args.JsonSave(description)
        )
        with self._written():
            self._manager.save(epoch, args=args, metrics={"score": score})

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def best(self) -> int | None:
        with self._read():
            return self._manager.best_step()

    def describe(self, epoch: int) -> dict:
        args = ocp.args.Composite(description=ocp.args.JsonRestore())
        with self._read():
            return self._manager.restore(epoch, args=args)["description"]

    def restore(self, epoch: int, like: Any) -> Any:
        """The state of that epoch, shaped like `like` (arrays or ShapeDtypeStructs)."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        with self._read():
            return self._manager.restore(epoch, args=args)["state"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        with self._written():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a damaged file surfaces as whatever the layer that met it raises
            # Reads still under way would each print that orbax has closed their event loop.
            sys.unraisablehook = lambda _: None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise UserError(
                f"the checkpoint in {self.folder} is damaged or does not fit the model that it describes ({reason}); "
                "delete that folder and train again, or name another --checkpoint"
            ) from error

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        # Tensorstore reports a full disk as a ValueError, the file system as an OSError; an earlier background write
        # that failed shows up here too.
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a checkpoint could not be written into {self.folder} ({str(error).strip().splitlines()[0][-90:]}); "
                "make room there or choose another --workdir; the earlier checkpoints are kept"
            ) from error


def open_existing(folder: pathlib.Path) -> Checkpoints:
    """Checkpoints to read. Raises UserError where there are none."""
    if not folder.is_dir() or not any(child.name.isdigit() for child in folder.iterdir()):
        raise UserError(f"there is no checkpoint in {folder}; train first, or name a run's folder with --checkpoint")
    return Checkpoints(folder)
