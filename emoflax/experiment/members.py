"""Which models a command is about, one per seed and fold, and where each keeps its files.

A run folder, runs/<name>-<corpus>-<protocol>, holds the report over the seeds and folds of one command; in it, a folder
such as seed0-fold1 holds checkpoints, metrics.jsonl and tensorboard of one model.
"""

import dataclasses
import pathlib

from ml_collections import ConfigDict

from emoflax.data import splits
from emoflax.data.clip import Corpus
from emoflax.data.splits import Split
from emoflax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Member:
    """One seed of one fold, and the folder that is its own. `epochs`: stop after so many, if not after all of them."""

    seed: int
    split: Split
    folder: pathlib.Path
    epochs: int | None = None

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"


def run_folder(workdir: pathlib.Path, config: ConfigDict, corpus: Corpus) -> pathlib.Path:
    return workdir / f"{config.name}-{corpus.name}-{splits.resolve_protocol(config.split.protocol, corpus)}"


def checkpoints_of(run: pathlib.Path) -> list[pathlib.Path]:
    """Folders of checkpoints in a run folder, sorted, or the one of a single model's folder.

    Raises:
      UserError: there is none.
    """
    if run.name == "checkpoints" and run.is_dir():
        return [run]
    own = run / "checkpoints"
    if made := [own] if own.is_dir() else sorted(run.glob("seed*-fold*/checkpoints")):
        return made
    raise UserError(
        f"--checkpoint={run} holds no trained model; name a run folder, or a folder such as RUN/seed0-fold1"
    )


def members(config: ConfigDict, corpus: Corpus, folder: pathlib.Path) -> list[Member]:
    """Every seed that makes a difference, and every fold that the config asks for."""
    made = folds(config, corpus, config.split.dev_share)
    return [Member(seed, split, folder / f"seed{seed}-fold{split.fold}") for seed in seeds(config) for split in made]


def seeds(config: ConfigDict) -> list[int]:
    """The config's seeds; of a closed-form model, which is the same with each, the first one alone."""
    every = [int(seed) for seed in config.seeds]
    return every[:1] if config.model.functionals else every


def folds(config: ConfigDict, corpus: Corpus, dev_share: float) -> list[Split]:
    """The folds that the config asks for."""
    protocol = splits.resolve_protocol(config.split.protocol, corpus)
    lists = {part: config.split[f"{part}_speakers"] for part in ("train", "dev", "test")}
    return [
        splits.make_split(corpus, protocol, fold, dev_share, lists)
        for fold in splits.parse_folds(config.split.fold, protocol, corpus)
    ]
