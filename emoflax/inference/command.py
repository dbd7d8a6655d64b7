"""--mode=predict: a bundle, a checkpoint or a run, and recordings -> a table and records, by file or window."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TextIO

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import SomeFailed, UserError
from emoflax.experiment.members import members, run_folder
from emoflax.features import untrusted
from emoflax.inference import explain, inputs, records, sources
from emoflax.inference.microphone import Microphone
from emoflax.inference.model import Model, Prediction, load
from emoflax.inference.recordings import TEXT_SUFFIXES, Recording
from emoflax.inference.records import printable
from emoflax.inference.utterances import Gaps
from emoflax.inference.windows import Windows

_LIVE = {"window_s": 3.0, "hop_s": 1.0}  # of a microphone, where nothing else is asked for


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is drawn of every recording, into which folder: attention, and probabilities over time."""

    folder: pathlib.Path
    attention: bool
    timeline: bool


def run(
    config: ConfigDict | None, workdir: pathlib.Path, checkpoint: str | None, patterns: Sequence[str],
    output: str | None, *, draw: bool, plot: bool, cut: Windows,
) -> None:  # fmt: skip
    """Predicts with a bundle, checkpoint or run that is named, or with the first model of the config's run.

    Raises:
      UserError: no input, no model, no place for the output, or a combination that cannot be; or as of `predict`.
    """
    if not patterns and checkpoint and pathlib.Path(checkpoint).is_dir():
        print(sources.listing(pathlib.Path(checkpoint)))
        return
    if not patterns:
        raise UserError("--mode=predict needs --inputs: a recording, a folder of them, a glob, - or mic")
    if checkpoint is None and config is None:
        raise UserError(
            "--mode=predict needs --checkpoint=BUNDLE or RUN/seed0-fold1, or the --config that trained the model"
        )
    if plot and not cut.window_s:
        raise UserError("--plot draws probabilities over time: give --window_s, such as --window_s=3")
    place = pathlib.Path(output) if output else None
    if place:
        records.check_place(place)
    untrusted.start()  # while the model is read
    model = load(_first_model(config, workdir) if checkpoint is None else checkpoint)
    if draw and (len(model.members) > 1 or cut.window_s):
        raise UserError("--explain draws the attention of one model over whole recordings: name RUN/seed0-fold1")
    if draw:
        explain.check(model.members[0].config)
    if model.notice:
        logging.warning("%s", model.notice)
    device = patterns[0].partition(":") if len(patterns) == 1 else ("", "", "")
    if device[0] == inputs.MICROPHONE:
        listen(model, device[2], place, cut)
    else:
        predict(model, patterns, place, cut, Pictures(place.parent if place else pathlib.Path(), draw, plot))


def _first_model(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    from emoflax.experiment.corpus import corpus_of

    corpus = corpus_of(config)
    return members(config, corpus, run_folder(workdir, config, corpus))[0].folder


def predict(
    model: Model, patterns: Sequence[str], output: pathlib.Path | None, cut: Windows, pictures: Pictures
) -> None:
    """Shows a table and writes one record per file or window, as it goes, see `records.py`.

    Files that cannot be read are among the records with the reason, and named at the end.

    Raises:
      UserError: no input, or nothing that can be read.
      SomeFailed: some files could not be read.
    """
    suffixes = RECORDING_SUFFIXES + (TEXT_SUFFIXES if model.takes_text else ())
    with inputs.opened(patterns, suffixes) as named:
        if output:
            records.refuse_inputs(output, named)
        asked = {"models": [[one.weight, one.trained.description] for one in model.members], **dataclasses.asdict(cut)}
        names = [] if model.by_speaker else [pathlib.Path(name) for name in named.values()]
        with records.Records(output, asked, names, model.labels) as kept:
            shown = Shown(model, output, max(len(printable(name)) for name in named.values()), bool(cut.window_s))
            drawn = _predict_all(model, named, kept, cut, shown, pictures)
    for picture in drawn:
        shown.line(f"drawn: {picture}")
    if output:
        print(f"records: {output}", file=sys.stderr)
    if kept.failures:
        more = f"; and {kept.failures - len(kept.reasons)} more" if kept.failures > len(kept.reasons) else ""
        if more:
            more += _where_all_are(kept, output)
        kind = UserError if kept.failures == len(named) else SomeFailed
        raise kind(f"{kept.failures} of {len(named)} files could not be read: " + "; ".join(kept.reasons) + more)


def _where_all_are(kept: records.Records, output: pathlib.Path | None) -> str:
    if output or not sys.stdout.isatty():
        return f", see {output or 'the records'}"
    try:
        return f", see {kept.list_failures()}"
    except OSError as error:
        return f"; --output=FILE keeps all of them ({error.strerror or error})"


class Shown:
    """What is printed: the table, on standard output; and if that is a program without --output, records there.

    Args:
      width: of the column of names.
      timed: whether rows have times.
    """

    def __init__(self, model: Model, output: pathlib.Path | None, width: int, timed: bool):
        self._model, self._width, self._timed = model, width, timed
        self._as_records = output is None and not sys.stdout.isatty()
        self._table: TextIO = sys.stderr if self._as_records else sys.stdout
        times = "    from s     to s" if timed else ""
        labels = "  ".join(f"{label[:9]:>9}" for label in model.labels)
        self.line(f"{'file':{width}}{times}  {'emotion':10}  {labels}")

    def line(self, text: str) -> None:
        print(text, file=self._table, flush=True)

    def row(self, row: Prediction, name: str) -> None:
        times = f"  {row.start_s:8.2f} {row.end_s:8.2f}" if self._timed else ""
        values = "  ".join(f"{p:9.3f}" for p in row.probabilities.values())
        label = "unsure" if row.unsure else row.label or ("(silence)" if row.silent else "(no voice)")
        self.line(f"{printable(name):{self._width}}{times}  {label:10}  {values}".rstrip())

    def records(self, made: Sequence[dict]) -> None:
        if self._as_records:
            print("".join(json.dumps(record) + "\n" for record in made), end="", flush=True)


def _predict_all(
    model: Model, named: dict[pathlib.Path, str], kept: records.Records, cut: Windows, shown: Shown, pictures: Pictures
) -> list[pathlib.Path]:
    """Predicts what has no record yet, part by part; returns pictures."""
    todo = [path for path, name in named.items() if model.by_speaker or name not in kept.earlier]
    timed, gaps = bool(cut.window_s), Gaps()
    drawn: list[pathlib.Path] = []
    for part in inputs.ahead(todo, at_once=len(todo) if model.by_speaker else inputs.PART_FILES):
        opened = [one for one in part.values() if isinstance(one, Recording)]
        scored = dict(zip(opened, model.score(opened, cut, gaps) if opened else [], strict=True))
        made: list[dict] = []
        for path, one in part.items():
            rows = one if isinstance(one, UserError) else scored[one]
            if isinstance(rows, UserError):
                made.append({"file": named[path], "error": str(rows).replace(str(path), named[path])})
                continue
            made += [record_of(model, row, named[path], timed) for row in rows]
            if unlike := next((row.notices for row in rows if row.notices), ()):
                logging.warning("%s is unlike the training clips: %s", printable(named[path]), "; ".join(unlike))
            for row in rows:
                shown.row(row, named[path])
        drawn += _draw(model, {one: rows for one, rows in scored.items() if isinstance(rows, list)}, gaps, pictures,
                       drawn)  # fmt: skip
        kept.add(made)
        shown.records(made)
    gaps.warn()
    return drawn


def _draw(
    model: Model, scored: dict[Recording, list[Prediction]], gaps: Gaps, pictures: Pictures,
    taken: Sequence[pathlib.Path],
) -> list[pathlib.Path]:  # fmt: skip
    """Pictures of recordings. For the attention features are made once more, which takes less than the drawing."""
    drawn: list[pathlib.Path] = []
    if pictures.timeline:
        from emoflax.inference import timeline
        from emoflax.reporting.pictures import plain

        for one, rows in scored.items():
            path = explain.free(pictures.folder / f"{pathlib.Path(one.name).stem}-emotions.png", [*taken, *drawn])
            title = plain(f"{pathlib.Path(one.name).name}: {model.index.get('name', model.where)}")
            timeline.draw(path, title, model.labels, rows)
            drawn.append(path)
    if pictures.attention and scored:
        ((member, utterances, _, _),) = model.features(list(scored), gaps)
        p = np.array([list(row.probabilities.values()) for (row,) in scored.values()])
        drawn += explain.draw(member.trained, utterances, p, pictures.folder, taken)
    return drawn


def listen(model: Model, device: str, output: pathlib.Path | None, cut: Windows) -> None:
    """Shows and writes the windows of a microphone as they end, until Ctrl-C or until the device is gone."""
    if cut.smooth_s:
        raise UserError("smooth_s averages with windows that have yet to be recorded; leave it out")
    cut = cut if cut.window_s else dataclasses.replace(cut, **_LIVE)
    name = inputs.MICROPHONE
    with Microphone(device) as microphone, records.Records(output, {}, (), model.labels) as kept:
        logging.info("listening at %d Hz; Ctrl-C ends it", microphone.rate_hz)
        shown = Shown(model, output, len(name), timed=True)
        rows = model.predict_stream(
            microphone.chunks(), microphone.rate_hz, window_s=cut.window_s, hop_s=cut.step_s, vad=cut.vad
        )
        try:
            for row in rows:
                made = [record_of(model, row, name, timed=True)]
                shown.row(row, name)
                kept.add(made)
                shown.records(made)
        except KeyboardInterrupt:
            logging.info("stopped listening")


def record_of(model: Model, row: Prediction, name: str, timed: bool) -> dict:
    """What a record holds. A part without speech has no emotion, and no probabilities."""
    times = {"start_s": round(row.start_s, 3), "end_s": round(row.end_s, 3), "silent": row.silent} if timed else {}
    made = {
        "file": name,
        **times,
        **({} if row.speech is None else {"speech": row.speech}),
        "emotion": row.label or None,
        "probabilities": {label: round(p, 6) for label, p in row.probabilities.items()},
        "trained_on": model.corpus,
    }
    made |= {"unsure": row.unsure} if model.least_confidence else {}
    return made | ({"notices": list(row.notices)} if row.notices else {})
