"""What each --mode does, from a config to files on disk."""

import datetime
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax import corpora, evaluate, experiment, ledger, metrics, report
from emoflax import predict as prediction
from emoflax.clip import Corpus
from emoflax.data import Features
from emoflax.errors import UserError


def open_corpus(config: ConfigDict) -> Corpus:
    corpus = corpora.load(config.data.corpus, config.data.dir, config.data.cache_dir)
    logging.info(
        "corpus %s: %d clips, %d speakers, %d emotions",
        corpus.name, len(corpus.clips), len(corpus.speakers), len(corpus.labels),
    )  # fmt: skip
    return corpus


def precompute(config: ConfigDict) -> None:
    """Fills the cache and trains nothing."""
    experiment.features_of(config, open_corpus(config))


def benchmark(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Times the config's model beside the same one in PyTorch, on random clips."""
    from emoflax.benchmark import run  # PyTorch comes with it

    run.no_compilation_caches()  # compile times are to be true
    run.run(config, workdir)


def train_and_report(config: ConfigDict, workdir: pathlib.Path, *, train: bool, record: bool) -> None:
    """Trains what is not trained yet (`train`), scores every test clip once, and writes the report."""
    begin, commit = time.perf_counter(), ledger.commit()  # of the code that is loaded now
    keep_compiled_programs(config)
    corpus = open_corpus(config)
    folder = experiment.run_folder(workdir, config, corpus)
    members = experiment.members(config, corpus, folder)
    _make(folder)
    features = experiment.features_of(config, corpus)
    if train:
        for member in members:
            experiment.train_member(config, features, member)
    predictions = [evaluate.predict_member(config, features, member) for member in members]
    confusions = evaluate.confusions(predictions, corpus)
    summary = metrics.summarise(confusions)
    evaluate.write_predictions(folder / "predictions.csv", predictions, corpus)
    facts = facts_of(config, features, members, confusions, time.perf_counter() - begin, commit)
    text = report.write(folder, facts, corpus.labels, confusions, summary)
    report.draw_curves(folder / "curves.png", facts.title, [member.folder for member in members])
    print(text)
    logging.info("report, predictions and pictures: %s", folder)
    if record:
        ledger.append(ledger.entries_of(summary, ledger_facts(config, facts)))


def keep_compiled_programs(config: ConfigDict) -> None:
    """The second run of a command starts at once; $JAX_COMPILATION_CACHE_DIR, where it is set, says where from."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(config.data.cache_dir).absolute() / "xla"))


def facts_of(
    config: ConfigDict,
    features: Features,
    members: list[experiment.Member],
    confusions: np.ndarray,
    seconds: float,
    commit: str,
) -> report.Facts:
    corpus, split = features.corpus, members[0].split
    return report.Facts(
        config=config.name,
        corpus=corpus.name,
        notice=corpus.notice,
        protocol=split.protocol,
        protocol_note=split.note,
        folds=tuple(sorted({member.split.fold for member in members})),
        seeds=tuple(sorted({member.seed for member in members})),
        clips=int(confusions[0].sum()),
        speakers=confusions.shape[1],
        parameters=evaluate.restore(members[0].checkpoints).parameters,
        seconds=seconds,
        command=shlex.join(["python", *sys.argv]),
        commit=commit,
        machine=ledger.machine(),
        date=datetime.date.today().isoformat(),
        text_check=text_check(config, features, split) if config.model.text else "",
    )


def text_check(config: ConfigDict, features: Features, split) -> str:
    """How much the words that the model saw tell about the label: a bad score can be the words' fault."""
    from emoflax import text_check as check  # scikit-learn, wanted only here

    clips = features.readable(split.train)
    lexicon = np.array([*features.shards["tokens"].manifest["lexicon"], ""], object)
    texts = [" ".join(lexicon[np.asarray(features.get("tokens", i))]) for i in clips]
    members = [features.corpus.clips[i] for i in clips]
    found = check.label_information(texts, [clip.label for clip in members], [clip.speaker for clip in members])
    return check.sentence(found)


def ledger_facts(config: ConfigDict, facts: report.Facts) -> dict:
    return {
        "config": facts.config,
        "corpus": facts.corpus,
        "protocol": facts.protocol,
        "seeds": list(facts.seeds),
        "ensemble": 1,
        "pretrained": False,
        "command": facts.command,
        "minutes": round(facts.seconds / 60, 2),
        "commit": facts.commit,
        "machine": facts.machine,
        "date": facts.date,
    }


def predict(
    config: ConfigDict | None, workdir: pathlib.Path, checkpoint: str | None, inputs: Sequence[str], output: str | None
) -> None:
    """Finds the checkpoint (named, or the first one of the config's run) and predicts."""
    if not inputs:
        raise UserError("--mode=predict needs --inputs: a recording, a folder of them, or a glob")
    if checkpoint is None and config is None:
        raise UserError("--mode=predict needs --checkpoint=RUN/seed0-fold1, or the --config that trained the model")
    if checkpoint is None:
        corpus = open_corpus(config)
        folder = experiment.members(config, corpus, experiment.run_folder(workdir, config, corpus))[0].checkpoints
    else:
        folder = pathlib.Path(checkpoint)
        folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    prediction.predict(folder, inputs, pathlib.Path(output) if output else None)


def _make(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --workdir") from error
