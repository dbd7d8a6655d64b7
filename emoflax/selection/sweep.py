"""A search for settings, by Optuna, on the training speakers of the folds that the config asks for.

A trial changes the fields of config.sweep.space; what counts is its mean score on the speakers that each fold's inner
split sets aside (`crossval`). Test speakers are in no split that a trial sees, and a trial that falls behind is pruned.
With more than one fold, the test speakers of one are training speakers of another: a recipe that was found so is
developed on all of them, and an honest number needs the search to be done fold by fold.

    runs/<name>-<corpus>-<protocol>-sweep/journal.log       every trial: the search goes on from it after a kill
    runs/<name>-<corpus>-<protocol>-sweep/trial0003/fold1/  checkpoints and logs of one model
    best.json, trials.csv, history.png, importance.png
"""

import csv
import dataclasses
import json
import pathlib
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import filelock
import numpy as np
import optuna
from absl import logging
from ml_collections import ConfigDict
from optuna.trial import TrialState

from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.errors import DivergedError, UserError
from emoflax.experiment import claims, identity
from emoflax.experiment.members import Member, folds
from emoflax.reporting import report
from emoflax.selection import crossval, shared
from emoflax.selection.candidates import override

STUDY_LOCK = "study.lock"  # while a study is begun, or asked for trials
KINDS = "('log', low, high), ('uniform', low, high), ('int', low, high) or ('choice', a, b, ...)"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A trial for a worker: its number, its config, one member per fold, and the folder of the search."""

    number: int
    config: ConfigDict
    members: tuple[Member, ...]
    folder: pathlib.Path

    @property
    def own_folder(self) -> pathlib.Path:
        return self.folder / trial_name(self.number)


def trial_name(number: int) -> str:
    return f"trial{number:04d}"


def run(config: ConfigDict, corpus: Corpus, folder: pathlib.Path) -> str:
    """Searches until config.sweep.trials trials have ended, killed ones of an earlier run first; says what was best."""
    if not config.sweep.space:
        raise UserError("config.sweep.space is empty; configs/sweep.py shows how it is written")
    distributions = {field: distribution(field, what) for field, what in config.sweep.space.items()}
    nests = [splits.nest(split) for split in folds(config, corpus, config.crossval.inner_share)]
    with crossval.one_at_a_time(config):
        crossval.open_features(config)  # computes what is missing, before several processes would
    with claims.alone(folder, STUDY_LOCK):
        study = open_study(folder, config)
        claim(study, config)
    protocol = splits.resolve_protocol(config.split.protocol, corpus)
    who = "inner validation speakers" if len(nests) == 1 else f"inner validation speakers of {len(nests)} folds"
    title = f"{config.name} on {corpus.name}, {protocol}: {who}"
    while sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) < config.sweep.trials:
        trials = next_trials(study, distributions, config, folder)
        attempts = [attempt_of(trial, config, [inner for inner, _ in nests], folder) for trial in trials]
        for place, value in shared.run(work, attempts, config.crossval.workers, lambda attempt: attempt.own_folder):
            shown = "pruned or diverged" if value is None else f"{100 * value:.1f} %"
            logging.info("trial %d of %d: %s", attempts[place].number + 1, config.sweep.trials, shown)
        if not attempts:  # other processes are at the last ones
            time.sleep(shared.POLL_S)
        write(study, config, folder, title)
    return write(study, config, folder, title)


def distribution(field: str, what: Sequence) -> optuna.distributions.BaseDistribution:
    """Raises UserError for a kind or a range that does not exist."""
    try:
        kind, *values = what
        if kind == "choice" and values:
            return optuna.distributions.CategoricalDistribution([str(value) for value in values])
        low, high = values
        if kind in ("log", "uniform"):
            return optuna.distributions.FloatDistribution(float(low), float(high), log=kind == "log")
        if kind == "int":
            return optuna.distributions.IntDistribution(int(low), int(high))
    except (TypeError, ValueError) as error:
        raise UserError(f"config.sweep.space[{field!r}] = {what!r}: {error}; write {KINDS}") from error
    raise UserError(f"config.sweep.space[{field!r}] = {what!r}: there is no {kind!r}; write {KINDS}")


def overrides_of(params: Mapping[str, Any], space: Mapping[str, Sequence]) -> dict[str, Any]:
    """Optuna's parameters -> config fields: choices are kept there as text, whatever they are."""
    choices = {field: {str(value): value for value in what[1:]} for field, what in space.items() if what[0] == "choice"}
    return {field: choices[field][value] if field in choices else value for field, value in params.items()}


def open_study(folder: pathlib.Path, config: ConfigDict) -> optuna.Study:
    """The search that the folder holds, or a new one; several processes may have it open."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The lock of Optuna's own choice is a file, which would outlive a process that is killed while it writes.
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"), _KernelLock(folder))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="sweep",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(config.sweep.startup_trials, config.sweep.prune_after_epochs),
    )


class _KernelLock(optuna.storages.journal.JournalFileOpenLock):
    def __init__(self, folder: pathlib.Path):
        super().__init__(str(folder / "journal.log"))
        self._lock = filelock.FileLock(folder / ".journal.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def claim(study: optuna.Study, config: ConfigDict) -> None:
    """Writes what is searched into a new study. Raises UserError where it was begun for something else."""
    mine = identity.compared({"config": json.loads(config.to_json_best_effort())})["config"]
    del mine["sweep"]["trials"], mine["sweep"]["batch"]
    if not study.user_attrs:
        study.set_user_attr("config", mine)
    elif changed := identity.differences({"config": study.user_attrs["config"]}, {"config": mine}):
        raise UserError(
            f"this folder holds a search with other settings ({'; '.join(changed[:4])}); choose another --workdir or "
            "config.name, or delete that folder"
        )


def begun(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that a kill cut short: their models resume from their checkpoints."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def next_trials(
    study: optuna.Study, distributions: Mapping, config: ConfigDict, folder: pathlib.Path
) -> list[optuna.trial.FrozenTrial]:
    """Trials that were begun and that no process is at, or new ones; none, if others are at all that are left."""
    with claims.alone(folder, STUDY_LOCK):
        running = begun(study)
        if free := [trial for trial in running if not claims.is_claimed(folder / trial_name(trial.number))]:
            return free
        room = config.sweep.trials - len(study.get_trials(deepcopy=False))
        return ask(study, distributions, config, min(room, max(1, config.sweep.batch)))


def ask(study: optuna.Study, distributions: Mapping, config: ConfigDict, count: int) -> list[optuna.trial.FrozenTrial]:
    """New trials. What is drawn follows from the trials before it, so that an interrupted search goes the same way."""
    before = len(study.get_trials(deepcopy=False))  # trials are numbered from 0
    study.sampler = optuna.samplers.TPESampler(
        seed=[int(config.seeds[0]), before], n_startup_trials=config.sweep.startup_trials
    )
    for _ in range(count):
        study.ask(dict(distributions))
    return [trial for trial in begun(study) if trial.number >= before]


def attempt_of(trial: optuna.trial.FrozenTrial, config: ConfigDict, inner: Sequence, folder: pathlib.Path) -> Attempt:
    name = trial_name(trial.number)
    changed = override(config, name, overrides_of(trial.params, config.sweep.space))
    seed = int(config.seeds[0])
    members = tuple(Member(seed, split, folder / name / f"fold{split.fold}") for split in inner)
    return Attempt(trial.number, changed, members, folder)


def work(attempt: Attempt) -> float | None:
    """Mean score over the folds, as the study is told; None for a trial that was pruned or whose training diverged.

    Raises:
      ClaimedError: another process is at this trial.
    """
    with claims.claim(attempt.own_folder):
        study = open_study(attempt.folder, attempt.config)
        frozen = study.get_trials(deepcopy=False)[attempt.number]
        if frozen.state.is_finished():  # by another process just now
            return frozen.value if frozen.state == TrialState.COMPLETE else None
        value = score(study, frozen, attempt)
        study.tell(attempt.number, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
        return value


def score(study: optuna.Study, frozen: optuna.trial.FrozenTrial, attempt: Attempt) -> float | None:
    """Trains the trial's models, and tells the study how each epoch went; returns as `work` does."""
    trial = optuna.trial.Trial(study, frozen._trial_id)
    corpus = crossval.open_features(attempt.config).corpus
    select, scores = attempt.config.train.select, []

    def watch(numbers: Mapping[str, Any]) -> None:
        score = numbers[f"dev_{select}"]
        step = len(scores) * attempt.config.train.epochs + numbers["epoch"]
        if score is None or step in frozen.intermediate_values:  # told before a kill
            return
        trial.report(float(np.mean([*scores, score])), step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        for member in attempt.members:
            predictions = crossval.learn(crossval.Task(attempt.config, member, "dev"), watch)
            scores.append(crossval.score_of(predictions, corpus, select))
    except optuna.TrialPruned:
        return None
    except DivergedError as error:
        logging.warning("trial %d: %s", attempt.number + 1, error)
        return None
    return float(np.mean(scores))


def write(study: optuna.Study, config: ConfigDict, folder: pathlib.Path, title: str) -> str:
    """Writes best.json, trials.csv and the pictures under that title; returns a few lines about the best trial."""
    with claims.alone(folder, "report.lock"):
        return _write(study, config, folder, title)


def _write(study: optuna.Study, config: ConfigDict, folder: pathlib.Path, title: str) -> str:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    write_table(folder / "trials.csv", trials, list(config.sweep.space))
    if not done:
        return f"no trial came to its end; look at {folder}/trials.csv, and at config.sweep.space"
    best = max(done, key=lambda trial: trial.value)
    overrides = overrides_of(best.params, config.sweep.space)
    flags = " ".join(f"--config.{field}={_flag(value)}" for field, value in overrides.items())
    found = {"trial": best.number, f"dev_{config.train.select}": best.value, "overrides": overrides, "flags": flags}
    (folder / "best.json").write_text(json.dumps(found, indent=2) + "\n")
    draw_history(folder / "history.png", title, done, config.train.select)
    draw_importance(folder / "importance.png", title, study)
    return (
        f"{len(trials)} trials, {len(trials) - len(done)} of them pruned or diverged; best: trial {best.number + 1}, "
        f"dev {report.NAMES[config.train.select]} {100 * best.value:.1f} %, mean over folds\n{flags}"
    )


def _flag(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if any(c in text for c in " ()[]'*\"") else text


def write_table(path: pathlib.Path, trials: Sequence[optuna.trial.FrozenTrial], fields: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "score", "steps", *fields])
        for trial in trials:
            score = "" if trial.value is None else f"{trial.value:.6f}"
            values = [trial.params.get(field, "") for field in fields]
            writer.writerow([trial.number, trial.state.name.lower(), score, len(trial.intermediate_values), *values])


def draw_history(path: pathlib.Path, title: str, done: Sequence[optuna.trial.FrozenTrial], select: str) -> None:
    """Score of every finished trial, and the best so far."""
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    number, score = ([getattr(trial, name) for trial in done] for name in ("number", "value"))
    number = np.array(number) + 1  # as in messages
    axes.plot(number, 100 * np.array(score), ".", label="trial")
    axes.step(number, 100 * np.maximum.accumulate(score), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel=f"dev {report.NAMES[select]}, %, mean over folds")
    axes.set_title(f"{title}\n{len(done)} trials came to their end", size=10)
    axes.xaxis.set_major_locator(plt.matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_importance(path: pathlib.Path, title: str, study: optuna.Study) -> None:
    """How much of the score's differences each field explains (PED-ANOVA, Watanabe et al. 2023)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(study)
    except (RuntimeError, ValueError):  # fewer than two scores that differ
        return
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(7, 1.4 + 0.4 * len(shares)), layout="constrained")
    axes.barh(list(shares)[::-1], list(shares.values())[::-1])
    axes.set(xlabel="share of the differences between scores", xlim=(0, 1))
    axes.set_title(f"{title}\nhow much each field matters (PED-ANOVA)", size=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
