"""What each --mode does, from a config to files on disk."""

import dataclasses
import datetime
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from emoflax import __version__
from emoflax.data import speakernorm, splits
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.errors import UserError, optional
from emoflax.experiment import evaluate, identity, lock, logs
from emoflax.experiment import transfer as other_corpus
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.facts import facts_of, ledger_facts
from emoflax.experiment.features import features_of, states_of
from emoflax.experiment.members import Member, members, run_folder
from emoflax.experiment.model import pretrained_encoders
from emoflax.files import make_folder
from emoflax.inference import bundle, compile_cache, model
from emoflax.parallel import multihost
from emoflax.reporting import ledger, metrics, report
from emoflax.selection import pages
from emoflax.selection.candidates import candidates_of
from emoflax.training import monitor


def open_corpus(config: ConfigDict) -> Corpus:
    corpus = corpus_of(config)
    logging.info(
        "corpus %s: %d clips, %d speakers, %d emotions",
        corpus.name, len(corpus.clips), len(corpus.speakers), len(corpus.labels),
    )  # fmt: skip
    return corpus


def precompute(config: ConfigDict) -> None:
    """Fills the cache, for every candidate where the config names some, and trains nothing."""
    keep_compiled_programs(config)

    def fill() -> None:
        corpus = open_corpus(config)
        if config.crossval.candidates:
            for candidate in candidates_of(config).values():
                features_of(candidate, corpus_of(candidate))
        else:
            features_of(config, corpus)
        if config.states.weights:
            states_of(config, corpus, config.audio.to_dict())

    multihost.first_then_all(fill)


def benchmark(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Times the config's model beside the same one in PyTorch, on random clips."""
    with optional("--mode=benchmark", "benchmark"):
        from emoflax.benchmark import run, timing  # imports PyTorch

    timing.no_compilation_caches()  # compile times are to be true
    run.run(config, workdir)


def begin_command(config: ConfigDict, record: bool) -> tuple[float, str]:
    """(Time in s, commit of the code that is loaded now); a result that could not be recorded is refused at once."""
    if record:
        ledger.check_recordable()
    logs.check(config)
    keep_compiled_programs(config)
    return time.perf_counter(), ledger.commit()


def train_and_report(config: ConfigDict, workdir: pathlib.Path, *, train: bool, record: bool) -> pathlib.Path | None:
    """Trains what is not trained yet (`train`), scores every test clip once, and writes the report.

    Returns:
      report.html, if it was made.
    """
    begin, commit = begin_command(config, record)
    corpus = multihost.first_then_all(lambda: open_corpus(config))
    folder = run_folder(workdir, config, corpus)
    own = members(config, corpus, folder)
    lock.hold(folder)
    for member in own:
        identity.check_early(config, corpus, member.checkpoints, member.split, member.seed)
    features = multihost.first_then_all(lambda: features_of(config, corpus))
    asked = {member.split.fold: member.split for member in own}
    kept = {fold: splits.check_leakage(split, corpus, features.digests) for fold, split in asked.items()}
    own = [dataclasses.replace(member, split=kept[member.split.fold]) for member in own]
    if train:
        from emoflax.experiment import population  # and orbax, after features, which may take all cores for a while

        population.train_members([(config, features, member) for member in own], config.train.population)
    predictions = [evaluate.predict_member(config, features, member) for member in own]
    if not multihost.is_first():
        return None
    facts = facts_of(config, features, own[0].split, predictions, time.perf_counter() - begin, commit)
    facts = dataclasses.replace(facts, notes=tuple(splits.note_of_twins(asked[fold], kept[fold]) for fold in asked))
    by_corpus = splits.base_of(facts.protocol) == "loco"
    report_on(config, folder, facts, corpus, predictions, record=record and not by_corpus)
    if by_corpus:
        report_by_corpus(config, folder, features, own, predictions, facts, record=record)
    report.draw_curves(folder / "curves.png", facts.title, [member.folder for member in own])
    logging.info("report, predictions and pictures: %s", folder)
    models = pages.of_members(config, own)
    page = pages.write(folder, config, facts, corpus, predictions, models, lambda _: features)
    logs.write(folder, config, corpus, predictions, own)
    return page


def report_by_corpus(
    config: ConfigDict,
    folder: pathlib.Path,
    features: Features,
    own: list[Member],
    predictions: list[evaluate.Predictions],
    facts: report.Facts,
    *,
    record: bool,
) -> None:
    """A report of each corpus that was left out of training, in a folder of its own."""
    corpus = features.corpus
    choice = corpus.name.removeprefix("+".join(source.name for source in corpus.sources))  # of labels and speakers
    for name in sorted({corpus.clips[i].corpus for p in predictions for i in p.clips}):
        kept, alone = evaluate.of_source(predictions, corpus, name)
        split = next(member.split for member in own if member.split.fold == kept[0].fold)
        trained = "+".join(sorted({corpus.clips[i].corpus for i in split.train}))
        named = dataclasses.replace(alone, name=f"{trained}{choice} -> {name}")
        seen = facts_of(config, Features(named, features.shards), split, kept, facts.seconds, facts.commit)
        make_folder(folder / name)
        report_on(config, folder / name, seen, named, kept, record=record)
        pages.write(folder / name, config, seen, named, kept)


def transfer(config: ConfigDict, workdir: pathlib.Path, checkpoint: str, *, record: bool) -> pathlib.Path | None:
    """Scores a trained model, or all of a run, on another corpus, and writes a report of it; returns report.html."""
    begin, commit = begin_command(config, record)
    run = pathlib.Path(checkpoint)
    scored = multihost.first_then_all(lambda: other_corpus.transfer(config, run))
    if not multihost.is_first():
        return None
    named = run.absolute() if run.name != "checkpoints" else run.absolute().parent
    name = f"{named.parent.name}-{named.name}" if (named / "checkpoints").is_dir() else named.name
    folder = workdir / f"{name}-on-{scored.features.corpus.name.rpartition(' -> ')[2]}"
    make_folder(folder)
    lock.hold(folder)
    seconds = time.perf_counter() - begin
    facts = facts_of(scored.config, scored.features, scored.split, scored.predictions, seconds, commit)
    facts = dataclasses.replace(facts, notes=scored.notes)
    report_on(scored.config, folder, facts, scored.features.corpus, scored.predictions, record=record)
    logging.info("report and predictions: %s", folder)
    page = pages.write(folder, scored.config, facts, scored.features.corpus, scored.predictions)
    logs.write(folder, scored.config, scored.features.corpus, scored.predictions)
    return page


def crossval(
    config: ConfigDict, workdir: pathlib.Path, *, record: bool, final: bool = False, output: str | None = None
) -> pathlib.Path | None:
    """Nested evaluation: one report of the chosen model, one of the ensemble, whose report.html is returned.

    Args:
      final: whether the bundle of `fit` is written, too.
    """
    from emoflax.selection import crossval as nested

    _, commit = begin_command(config, record)
    corpus = open_corpus(config)
    if final:
        bundle.check_place(bundle_of(workdir, config, corpus, output))
    permuted = "-permuted" if config.crossval.permute_labels else ""
    folder = nested.run_folder_of(workdir, config, corpus)
    before = written_reports(folder)
    reserve(config, folder)
    result = nested.run(config, corpus, folder)
    # Of several processes the first one at this point writes the reports, and the others wait for it. Whoever held the
    # folder earlier may have been killed before it wrote any.
    if config.crossval.shared:
        lock.hold_when_free(folder)
    if not lock.try_hold(folder) or (config.crossval.shared and written_reports(folder) != before):
        logging.info("all models are trained; another process writes the reports: %s", folder)
        return None
    features, notes, reported = nested.open_features(config), nested.notes(config, result), []
    candidates = candidates_of(config)
    for part in nested.parts(config, result):
        facts = facts_of(config, features, part.split, part.predictions, part.seconds, commit)
        named = {"config": f"{config.name}{part.suffix}{permuted}", "protocol": part.protocol, "seeds": part.seeds}
        pretrained = any(pretrained_encoders(candidates[name]) for name in part.candidates)
        facts = dataclasses.replace(facts, **named, ensemble=part.models, notes=notes, pretrained=pretrained)
        make_folder(folder / part.folder)
        report_on(config, folder / part.folder, facts, corpus, part.predictions, record=record and part.recorded)
        reported.append((part, facts))
    drawn, which = (result.inner, "inner") if result.inner else (result.final, "final")
    report.draw_curves(folder / "curves.png", f"{facts.title}: {which} models", [member.folder for member in drawn])
    logging.info("reports, predictions and choices: %s", folder)
    made = None
    for part, facts in reported:
        models = pages.of_chosen(config, result) if part.folder == "one" else {}
        drawn_of = (folder / part.folder, config, facts, corpus, part.predictions)
        made = pages.write(*drawn_of, models, nested.open_features, result.choices)
        logs.write(folder / part.folder, config, corpus, part.predictions)
    if final:
        fit(config, workdir, output)
    return made


def reserve(config: ConfigDict, folder: pathlib.Path) -> None:
    """Reserves the folder, or waits until it is free where several processes share it."""
    if config.crossval.shared:
        lock.wait(folder)
    else:
        lock.hold(folder)


def written_reports(folder: pathlib.Path) -> dict[str, int]:
    """When each report of a cross-validation was written."""
    found = [*folder.glob("*/report.json"), *folder.glob("inner/*/report.json")]
    return {str(path): path.stat().st_mtime_ns for path in found}


def bundle_of(workdir: pathlib.Path, config: ConfigDict, corpus: Corpus, output: str | None) -> pathlib.Path:
    """Where `fit` writes."""
    return pathlib.Path(output) if output else fit_folder(workdir, config, corpus) / "bundle"


def fit_folder(workdir: pathlib.Path, config: ConfigDict, corpus: Corpus) -> pathlib.Path:
    folder = run_folder(workdir, config, corpus)
    return folder.with_name(f"{folder.name}-fit")


def fit(config: ConfigDict, workdir: pathlib.Path, output: str | None) -> None:
    """Trains what crossval chose on all speakers, and writes the bundle."""
    from emoflax.selection import card
    from emoflax.selection import crossval as nested
    from emoflax.selection import fit as final

    _, commit = begin_command(config, record=False)
    corpus = open_corpus(config)
    folder, place = fit_folder(workdir, config, corpus), bundle_of(workdir, config, corpus, output)
    lock.hold(folder)
    bundle.check_place(place)
    chosen = final.choose(config, corpus, nested.run_folder_of(workdir, config, corpus))
    own = final.train(config, corpus, folder, chosen)
    made = {"emoflax": __version__, "commit": commit, "date": datetime.date.today().isoformat(),
            "command": shlex.join(["emoflax", *filter(_names_no_place, sys.argv[1:])])}  # fmt: skip
    index = final.index_of(config, corpus, chosen, made)
    text = card.render(index, [(one.name, one.weight, one.trained.parameters) for one in own])
    bundle.write(place, own, index, text, model.check_signal(model.Model(own, index, str(place))))
    if chosen.measured is None:
        logging.warning("no score was measured for this model: --mode=crossval with the same flags measures one")
    logging.info("bundle of %d models: %s", len(own), place)


def _names_no_place(flag: str) -> bool:
    """Whether a flag may stand in a bundle, which goes to others: not one that names a folder of this machine."""
    places = r"workdir|output|config\.(\w+\.(dir|root|cache_dir|file|weights|mlflow)|model\.pretrained\.\w+)"
    return not re.match(rf"--({places})\b", flag)


def probe(config: ConfigDict, workdir: pathlib.Path, *, record: bool) -> pathlib.Path | None:
    """How well single layers of a pretrained encoder tell the emotion; keeps the best one's model per fold.

    Returns:
      report.html, if it was made.
    """
    from emoflax.experiment.run import train_member
    from emoflax.selection import probe as linear

    if suffix := speakernorm.suffix_of(config.split.protocol):
        raise UserError(f"--mode=probe does not normalise; choose config.split.protocol without {suffix}")
    begin, commit = begin_command(config, record)
    corpus = open_corpus(config)
    folder = run_folder(workdir, config, corpus)
    lock.hold(folder)
    features = features_of(config, corpus)
    own = [
        dataclasses.replace(member, split=splits.check_leakage(member.split, corpus, features.digests))
        for member in members(config, corpus, folder)
    ]
    choices = linear.choose(config, features, [member.split for member in own])
    predictions = []
    for choice, member in zip(choices, own, strict=True):
        chosen = linear.with_layer(config, choice.layer)
        train_member(chosen, features, member)
        predictions.append(evaluate.predict_member(chosen, features, member))
    facts = facts_of(config, features, own[0].split, predictions, time.perf_counter() - begin, commit)
    facts = dataclasses.replace(facts, notes=(linear.note(choices),))
    report_on(config, folder, facts, corpus, predictions, record=record)
    logging.info("report and predictions: %s", folder)
    page = pages.write(folder, config, facts, corpus, predictions)
    logs.write(folder, config, corpus, predictions)
    return page


def compare(config: ConfigDict | None, folders: Sequence[str], workdir: pathlib.Path) -> pathlib.Path | None:
    """Differences between finished runs; returns compare.html, which a config can switch off."""
    from emoflax.reporting import compare as comparison  # scipy.stats takes a second, wanted only here

    runs = [comparison.read(pathlib.Path(folder)) for folder in folders]
    comparison.check_comparable(runs)
    pairs = comparison.differences(runs)
    print(comparison.write(workdir, runs, pairs))
    logging.info("comparison: %s", workdir / "compare.md")
    if config is not None and not config.report.html:
        return None
    return pages.tried(str(workdir / "compare.html"), lambda: comparison.write_page(workdir, runs, pairs))


def sweep(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Searches config.sweep.space on training speakers alone."""
    with optional("--mode=sweep", "sweep"):
        from emoflax.selection import sweep as search  # imports optuna

    keep_compiled_programs(config)
    corpus = open_corpus(config)
    folder = run_folder(workdir, config, corpus)
    folder = folder.with_name(f"{folder.name}-sweep")
    reserve(config, folder)
    print(search.run(config, corpus, folder))


def report_on(
    config: ConfigDict,
    folder: pathlib.Path,
    facts: report.Facts,
    corpus: Corpus,
    predictions: list[evaluate.Predictions],
    *,
    record: bool,
) -> None:
    """Writes predictions, report and TensorBoard's events, prints the report, and records the result if asked to."""
    confusions = evaluate.confusions(predictions, corpus)
    summary = metrics.summarise(confusions)
    evaluate.write_predictions(folder / "predictions.csv", predictions, corpus)
    print(report.write(folder, facts, corpus.labels, confusions, summary, evaluate.calibrations(predictions, corpus)))
    if record:
        ledger.append(ledger.entries_of(summary, ledger_facts(facts)))
    scores = {f"test/{name}": summary[name]["mean"] for name in metrics.METRICS}
    pictures = (folder / "confusion.png", folder / "reliability.png")
    monitor.log_test(folder, scores, pictures, identity.unusual(config) | {"config": facts.config})


def keep_compiled_programs(config: ConfigDict) -> None:
    """The second run of a command starts at once; $JAX_COMPILATION_CACHE_DIR, where it is set, says where from."""
    compile_cache.keep(pathlib.Path(config.data.cache_dir).absolute())
