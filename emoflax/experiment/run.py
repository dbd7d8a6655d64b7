"""One model of a run: trained, or what is left of it, and kept on disk epoch by epoch."""

import contextlib
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from emoflax.data import dataset as data
from emoflax.data import splits
from emoflax.data.features import Features
from emoflax.experiment import closed_form, identity, seen, start
from emoflax.experiment.features import dataset_of, vocabulary_of
from emoflax.experiment.members import Member
from emoflax.experiment.model import initial_model, model_shapes
from emoflax.experiment.train_config import train_config_of
from emoflax.files import make_folder
from emoflax.parallel import mesh as devices
from emoflax.parallel import multihost
from emoflax.reporting import calibration, crossfit, metrics
from emoflax.training import epoch as epochs
from emoflax.training import loop, scoring
from emoflax.training.checkpoint import Checkpoints, parts_of
from emoflax.training.monitor import Monitor, Profile
from emoflax.training.step import TrainState


def train_member(
    config: ConfigDict, features: Features, member: Member, watch: Callable[[Mapping], None] = lambda numbers: None
) -> None:
    """Trains one model, or what is left of it, and leaves its checkpoints on disk.

    Args:
      watch: called with the numbers of every epoch; what it raises ends the training.
    """
    if config.model.functionals:
        closed_form.train_member(config, features, member)
        return
    with Training(config, features, member, devices.all_devices(), alone=True) as run:

        def after_epoch(epoch: int, state: TrainState, numbers: dict) -> None:
            run.keep(epoch, state, numbers)
            watch(numbers)

        loop.fit(
            run.train_config, run.state, run.train_set, epochs=run.epochs, after_epoch=after_epoch, profile=run.profile
        )


class Training:
    """A model between two epochs: what it learns from, its state, and where its epochs are kept.

    Args:
      mesh: the devices over which its rows are sharded; None: one.
      alone: whether `loop.fit` will train it, for which it is compiled ahead; its program is no population's.

    Attributes:
      model: with its first weights and its normalisation.
      state: after the `done` epochs that an earlier run left on disk.
      epochs: that it is to have in the end.
    """

    def __init__(
        self, config: ConfigDict, features: Features, member: Member, mesh: Mesh | None = None, *, alone: bool = False
    ):
        self._begin, self.config, self.member = time.perf_counter(), config, member
        self._corpus = features.corpus
        labels = self._corpus.labels
        split = splits.check_leakage(member.split, self._corpus, features.digests)
        clips = features.readable(split.train)
        vocabulary = vocabulary_of(config, features, clips)
        self._description = identity.describe(config, features, split, member.seed, vocabulary)
        trained_on = seen.of_training(self._corpus, (*clips, *split.dev), features.digests)
        self._facts = {"conditions": features.usual_conditions(clips), "trained_on": trained_on}
        self._checkpoints = Checkpoints(member.checkpoints)
        self.done = identity.check(self._checkpoints, self._description) or 0  # before anything is computed
        label = np.array(self._corpus.label_numbers(clips))
        corpora = [self._corpus.clips[i].corpus for i in clips] if config.train.balance_corpora else None
        weights = data.clip_weights(label, len(labels), config.train.class_weighting, corpora)
        self.train_set = dataset_of(config, features, clips, vocabulary, weights, mesh, train=True)
        self.dev_set = dataset_of(config, features, split.dev, vocabulary, mesh=mesh) if len(split.dev) else None
        self.epochs = member.epochs or config.train.epochs
        ahead = self.done < self.epochs and jax.process_count() == 1
        shapes = model_shapes(config, len(vocabulary), len(labels))
        self.train_config = train_config_of(config, shapes, self.train_set.steps)
        step = None
        if alone and ahead and not self.train_set.streamed:
            step = epochs.compile_ahead(self.train_config, self.train_config.shapes(shapes), self.train_set.buckets)
        self.model = initial_model(config, features, clips, vocabulary, member.seed)
        if config.model.pooling == "mean_std" and not self.done:
            start.fit_pooled(config, self.model, self.train_set, features)
        fresh = devices.replicate(self.train_config.init(self.model, member.seed), mesh)

        self.state, self._clock_s = identity.resume(self._checkpoints, self.done, fresh)
        self._cross_fitted = self._resumed_choices() if self.dev_set else None
        self.profile = Profile(member.folder / "profile" if multihost.is_first() else None, config.profile_steps)
        self._monitor = self._compiled = None
        if self.dev_set and ahead:
            self._compiled = scoring.compile_ahead(self.train_config.model, self.state, self.dev_set)
        if self.done >= self.epochs:
            logging.info("%s: all %d epochs are done", member.folder.name, self.done)
        elif multihost.is_first():
            make_folder(member.folder)
            self._monitor = Monitor(member.folder, member.folder.name, self.done, self.epochs)
        if step:
            step.result()

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *raised) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._checkpoints.__exit__, *raised)
            if self._monitor:
                stack.callback(self._monitor.close)
            stack.callback(self.profile.close)

    def keep(self, epoch: int, state: TrainState, numbers: dict) -> None:
        """Evaluates, saves and logs an epoch; its dev scores are added to `numbers`."""
        config, last = self.config, epoch == self.epochs
        numbers |= dict.fromkeys(("dev_loss", *(f"dev_{name}" for name in metrics.METRICS)))
        if epoch % config.train.save_epochs == 0 or last:
            if self._compiled:
                self._compiled.result()
            if self.dev_set:
                log_p = scoring.score(self.train_config.model, state, self.dev_set)
                label = np.array(self._corpus.label_numbers(self.dev_set.clips))
                numbers |= dev_scores(log_p, label)
                self._cross_fitted = self._cross_fitted.after(log_p, label, config.train.select)
                fitted = calibration.fitted(self._cross_fitted.log_p_NxC, label)
                self._description |= {"calibration": fitted | {"cross_fitted": True}}
            clock = self._clock_s + time.perf_counter() - self._begin
            # Without dev clips the last epoch is the best one.
            chosen_by = numbers[f"dev_{config.train.select}"] if self.dev_set else epoch / config.train.epochs
            description = self._description | {"epoch": epoch, "clock_s": clock} | self._facts
            dev = self._cross_fitted.saved() if self._cross_fitted else None
            self._checkpoints.save(epoch, description, chosen_by, *parts_of(state), dev=dev)
        if self._monitor:
            self._monitor.epoch(numbers)

    def _resumed_choices(self) -> crossfit.CrossFitted:
        """After the `done` epochs; of a run that an earlier version began, as if the next one were its first."""
        if saved := self._checkpoints.dev(self.done) if self.done else None:
            return crossfit.CrossFitted.restored(saved)
        clips, label = self.dev_set.clips, np.array(self._corpus.label_numbers(self.dev_set.clips))
        groups = crossfit.groups(np.array([self._corpus.clips[i].speaker for i in clips]), label)
        return crossfit.CrossFitted.before_training(groups, len(self._corpus.labels))


def dev_scores(log_p: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Of log-probabilities [clips, classes]."""
    matrix = metrics.confusion(label, log_p.argmax(1), log_p.shape[1])
    found = {f"dev_{name}": float(value) for name, value in metrics.scores(matrix).items()}
    return found | {"dev_loss": float(-log_p[np.arange(len(label)), label].mean())}
