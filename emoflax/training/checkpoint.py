"""Checkpoints that describe themselves, and whose every byte is checked when they are read.

A checkpoint folder holds one folder per epoch:

    <epoch>/model          what predictions need: the weights that are evaluated, and normalisation statistics
    <epoch>/training       what only further training needs, absent for closed-form models: step, seed, optimizer state
    <epoch>/description    JSON from which the model is rebuilt without any config file
    <epoch>/dev            JSON: what later epochs go on from, of dev clips (reporting/crossfit.py); absent without them
    <epoch>/metrics        the score by which the best epoch is chosen
    <epoch>/SHA256SUMS     checksums of all these files; an epoch without it was never finished, and is never restored

Kept are the two latest epochs, so that one is left if the other is damaged, and the best one. The checksums of an epoch
are written before an older one is deleted: a kill at any moment leaves a whole checkpoint, once there was one.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from emoflax.errors import DivergedError, UserError
from emoflax.parallel import multihost
from emoflax.training import checksums
from emoflax.training.checksums import Damaged
from emoflax.training.step import TrainState, Weights

_EARLIER_FORMAT = "state"  # the item that checkpoints without checksums hold everything in


class Checkpoints:
    """Checkpoints of one run, numbered by epoch. To be used in a `with` statement, or closed.

    Nothing in the folder is changed before the first `save`, which removes what an earlier run left unfinished or what
    is damaged: training goes on from a whole epoch, and those after it are written again.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._writer: ocp.CheckpointManager | None = None
        self._damage: dict[int, Damaged | None] = {}  # by epoch, of those that were looked at

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        try:
            self.close()
        except UserError as error:
            if kind is None:
                raise
            logging.error("%s", error)  # what ended the `with` statement is the first cause, and is reported as such

    def save(
        self, epoch: int, description: dict, score: float, model: Weights, training: Any = None, dev: Any = None
    ) -> None:
        """Writes in the background, atomically: a kill at any moment leaves whole checkpoints.

        Args:
          description: of the model, to be written as JSON.
          score: the higher, the better.
          model: the arrays that predictions need.
          training: tree of arrays that only further training needs; None for a model that is not trained in epochs.
          dev: of the dev clips, what later epochs go on from, to be written as JSON; None without dev clips.

        Raises:
          DivergedError: a weight is not a finite number.
          UserError: the folder cannot be written to, or an earlier epoch could not be written.
        """
        items = {"model": model} | ({} if training is None else {"training": training})
        # The next epoch donates these buffers while they are still being written: write a copy.
        items = _copy(_of_one_device(items))
        if name := _not_finite(items):
            raise DivergedError(
                f"{name} holds numbers that are not finite after epoch {epoch}; it is not saved, earlier checkpoints "
                "are kept. Lower config.optimizer.learning_rate, set config.optimizer.clip_norm, or use float32"
            )
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        texts = {"description": description} | ({} if dev is None else {"dev": dev})
        args |= {name: ocp.args.JsonSave(text) for name, text in texts.items()}
        with self._writing():
            if self._writer is None:
                multihost.first_then_all(self._remove_what_is_not_whole)
                self._writer = _open_to_write(self.folder)
            self._writer.save(
                epoch,
                args=ocp.args.Composite(**args),
                metrics={"score": float(score)},
            )

    def latest(self) -> int | None:
        """The latest whole epoch; None where none was ever finished.

        Raises:
          UserError: all are damaged.
        """
        return self._first_whole(sorted(self._finished(), reverse=True))

    def best(self) -> int | None:
        """The whole epoch with the highest score, of equals the latest; errors as of `latest`."""
        score = {epoch: self._read(epoch, "metrics")["score"] for epoch in self._finished() if self._has_score(epoch)}
        damaged = [epoch for epoch in self._finished() if epoch not in score]
        return self._first_whole(damaged + sorted(score, key=lambda epoch: (score[epoch], epoch), reverse=True))

    def describe(self, epoch: int) -> dict:
        """The description of a whole epoch."""
        return self._read(epoch, "description")

    def describe_latest(self) -> dict:
        """The description of the latest epoch that has a whole one; its arrays are not read. {}: there is none."""
        of = "description"
        whole = (epoch for epoch in reversed(self._finished()) if not _damage(self._folder_of(epoch), f"{of}/"))
        epoch = next(whole, None)
        return {} if epoch is None else self._read(epoch, of)

    def dev(self, epoch: int) -> dict | None:
        """What a whole epoch kept of the dev clips; None without them, and in checkpoints of earlier versions."""
        return self._read(epoch, "dev") if (self._folder_of(epoch) / "dev").is_dir() else None

    def restore_model(self, epoch: int, like: Weights) -> Weights:
        """The arrays that predictions need, of a whole epoch.

        Args:
          like: arrays or ShapeDtypeStructs: the shapes, and the devices that get the arrays.

        Raises:
          UserError: the arrays have other names or shapes, or hold numbers that are not finite.
        """
        return self._restore(epoch, "model", like)

    def restore_state(self, epoch: int, like: TrainState) -> TrainState:
        """All that training goes on from; arguments and errors as of `restore_model`."""
        model, training = parts_of(like)
        return _joined(self._restore(epoch, "model", model), self._restore(epoch, "training", training))

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the last epoch could not be written.
        """
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        with self._writing():
            try:
                writer.wait_until_finished()
            finally:
                writer.close()

    def _finished(self) -> list[int]:
        """Epochs that were written to their end, in order. Raises UserError for those of an earlier format."""
        if not self.folder.is_dir():
            return []
        epochs = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        finished = [epoch for epoch in epochs if checksums.exist(self._folder_of(epoch))]
        if not finished and any((self._folder_of(epoch) / _EARLIER_FORMAT).is_dir() for epoch in epochs):
            raise UserError(
                f"the checkpoint in {self.folder} was made by an earlier version, without checksums, and cannot be "
                "checked; train again in another --workdir, or delete that folder"
            )
        return finished

    def _folder_of(self, epoch: int) -> pathlib.Path:
        return self.folder / str(epoch)

    def _damage_of(self, epoch: int) -> Damaged | None:
        if epoch not in self._damage:
            self._damage[epoch] = _damage(self._folder_of(epoch))
        return self._damage[epoch]

    def _has_score(self, epoch: int) -> bool:
        """Whether an epoch's score can be read, without reading its arrays."""
        if damage := _damage(self._folder_of(epoch), "metrics/"):
            self._damage[epoch] = damage
        return damage is None

    def _first_whole(self, epochs: Iterable[int]) -> int | None:
        """The first whole one; a warning names the damaged file of each one before it."""
        damaged = []
        for epoch in epochs:
            if self._damage_of(epoch) is None:
                for at, damage in damaged:
                    logging.warning("%s; epoch %d is used in the place of epoch %d", damage, epoch, at)
                return epoch
            damaged.append((epoch, self._damage_of(epoch)))
        if damaged:
            raise UserError(
                f"{damaged[0][1]}, and {self.folder} holds no other whole checkpoint; delete that folder and train "
                "again, or name another --checkpoint"
            )
        return None

    def _read(self, epoch: int, item: str) -> dict:
        with self._reading(epoch), _open_to_read(self.folder) as reader:
            return reader.restore(epoch, args=ocp.args.Composite(**{item: ocp.args.JsonRestore()}))[item]

    def _restore(self, epoch: int, item: str, like: Any) -> Any:
        where = f"epoch {epoch} of {self.folder}"
        with self._reading(epoch), _open_to_read(self.folder) as reader:
            # Checked before it is read: orbax finds it out while other arrays are on their way.
            if difference := _difference(_shapes(reader.item_metadata(epoch)[item].tree), _shapes(like)):
                raise UserError(
                    f"{where} does not fit the model that it describes: {difference}; it was trained by another "
                    "version of the model: train again in another --workdir, or name another --checkpoint"
                )
            tree = reader.restore(epoch, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(like)}))[item]
        if name := _not_finite(tree):
            raise UserError(f"{where}: {name} holds numbers that are not finite; train again in another --workdir")
        return tree

    @contextlib.contextmanager
    def _reading(self, epoch: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # its checksums are right all the same
            raise UserError(
                f"epoch {epoch} of {self.folder} cannot be read ({_reason(error)}), though its checksums are right: it "
                "was changed after it was written; delete that epoch's folder, or train again in another --workdir"
            ) from error
        except OSError as error:
            hint = "is a training at work there, which removes older epochs?" if self._is_gone(epoch) else "try again"
            raise UserError(f"cannot read epoch {epoch} of {self.folder} ({_reason(error)}); {hint}") from error

    def _is_gone(self, epoch: int) -> bool:
        return not self._folder_of(epoch).is_dir()

    def _remove_what_is_not_whole(self) -> None:
        if not multihost.is_first():
            return
        finished = self._finished()
        for epoch in (int(path.name) for path in self.folder.glob("*") if path.name.isdigit()):
            damage = self._damage_of(epoch) if epoch in finished else None
            if damage:
                logging.warning("%s; epoch %d cannot be used any more and is removed", damage, epoch)
            if damage or epoch not in finished:
                shutil.rmtree(self._folder_of(epoch))
                self._damage.pop(epoch, None)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        # Tensorstore reports a full disk as a ValueError, the file system as an OSError; an earlier background write
        # that failed is raised here too.
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of a barrier that another process did not come to
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a checkpoint could not be written into {self.folder} ({_reason(error)}); make room there or choose "
                "another --workdir; the earlier checkpoints are kept"
            ) from error


def open_existing(folder: pathlib.Path) -> Checkpoints:
    """Checkpoints to read. Raises UserError where there are none."""
    checkpoints = Checkpoints(folder)
    if not checkpoints._finished():
        raise UserError(f"there is no checkpoint in {folder}; train first, or name a run's folder with --checkpoint")
    return checkpoints


def parts_of(state: TrainState) -> tuple[Weights, dict[str, Any]]:
    """What predictions need, and what only further training needs; no array is in both."""
    training = {"step": state.step, "seed": state.seed, "opt_state": state.opt_state, "numbers": state.numbers}
    return state.weights, training if state.average is None else training | {"params": state.params}


def _joined(model: Weights, training: dict[str, Any]) -> TrainState:
    """The state that `parts_of` took apart."""
    averaged = "params" in training
    return TrainState(
        step=training["step"],
        seed=training["seed"],
        params=training["params"] if averaged else model.params,
        statistics=model.statistics,
        opt_state=training["opt_state"],
        average=model.params if averaged else None,
        numbers=training["numbers"],
    )


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _of_one_device(tree: Any) -> Any:
    """What is the same on all devices of the only process, of one: else orbax cuts it up, by a program per shape."""

    def first(leaf: Any) -> Any:
        whole = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
        return leaf.addressable_data(0) if whole else leaf

    return jax.tree.map(first, tree) if jax.process_count() == 1 else tree


class _WithChecksums(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """How orbax finishes a folder, and the checksums that an epoch is finished with.

    orbax calls this once all processes have written their part, in the first process alone, and deletes older epochs
    after it.
    """

    async def finalize(self) -> None:
        await super().finalize()
        if self.get_final().name.isdigit():  # of an epoch; the folders in it are finished in the same way, before it
            checksums.write(pathlib.Path(self.get_final()))


def _open_to_write(folder: pathlib.Path) -> ocp.CheckpointManager:
    # max_to_keep with best_fn would delete the newest epoch, and resume with it.
    policy = keep.AnyPreservationPolicy([keep.LatestN(2), keep.BestN(get_metric_fn=_score, n=1)])
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_score,
        enable_async_checkpointing=True,
        temporary_path_class=_WithChecksums,
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _open_to_read(folder: pathlib.Path) -> ocp.CheckpointManager:
    # lightweight_initialize: else it reads the metrics of every epoch, which may be damaged. read_only would warn that
    # the folder is read only, each time; nothing is written by what is only asked to restore.
    options = ocp.CheckpointManagerOptions(create=False, lightweight_initialize=True, save_root_metadata=False)
    arrays, json = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    handlers = {"model": arrays(), "training": arrays(), "description": json(), "dev": json(), "metrics": json()}
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)


def _score(metrics: dict) -> float:
    return metrics["score"]


def _damage(folder: pathlib.Path, below: str = "") -> Damaged | None:
    try:
        checksums.verify(folder, below)
    except Damaged as damage:
        return damage
    return None


def _by_name(tree: Any, value: Callable[[Any], Any]) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): value(leaf) for path, leaf in leaves}


def _shapes(tree: Any) -> dict[str, tuple]:
    return _by_name(tree, lambda leaf: (tuple(leaf.shape), str(leaf.dtype)))


def _difference(there: dict[str, tuple], wanted: dict[str, tuple]) -> str:
    """The first array that one of the two lacks or that has another shape; '' if there is none."""
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            shown = ["no array" if name not in one else "{1} {0}".format(*one[name]) for one in (there, wanted)]
            return f"{name} is {shown[0]} in the checkpoint and {shown[1]} in the model"
    return ""


def _not_finite(tree: Any) -> str:
    """Name of the first array with NaN or an infinite number; '' if there is none."""

    def bad(leaf: Any) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all()

    return next((name for name, is_bad in _by_name(tree, bad).items() if is_bad), "")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    cause = lines[0][-90:]  # libraries name the cause last
    return cause if cause == lines[0] else f"... {cause.partition(' ')[2]}"
