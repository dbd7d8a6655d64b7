"""--mode=predict: a bundle, a checkpoint or a run, and recordings -> a table and JSON lines, by file or window."""

import dataclasses
import glob
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from emoflax.corpora import scan
from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import SomeFailed, UserError
from emoflax.experiment.members import members, run_folder
from emoflax.features import untrusted
from emoflax.inference import explain, recordings, records
from emoflax.inference.model import Model, Prediction, load
from emoflax.inference.recordings import TEXT_SUFFIXES, Recording
from emoflax.inference.records import printable
from emoflax.inference.utterances import Gaps
from emoflax.inference.windows import Windows

# Recordings between two writes to disk: an interruption costs the work on as many; and samples that may be in memory.
PART_FILES, PART_SAMPLES = 64, 1 << 27


def run(
    config: ConfigDict | None, workdir: pathlib.Path, checkpoint: str | None, inputs: Sequence[str],
    output: str | None, *, draw: bool, cut: Windows,
) -> None:  # fmt: skip
    """Predicts with a bundle, checkpoint or run that is named, or with the first model of the config's run.

    Raises:
      UserError: no input, no model, no place for the output, or a combination that cannot be; or as of `predict`.
    """
    if not inputs:
        raise UserError("--mode=predict needs --inputs: a recording, a folder of them, or a glob")
    if checkpoint is None and config is None:
        raise UserError(
            "--mode=predict needs --checkpoint=BUNDLE or RUN/seed0-fold1, or the --config that trained the model"
        )
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
    predict(model, inputs, place, cut, draw=draw)


def _first_model(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    from emoflax.experiment.corpus import corpus_of

    corpus = corpus_of(config)
    return members(config, corpus, run_folder(workdir, config, corpus))[0].folder


def predict(model: Model, patterns: Sequence[str], output: pathlib.Path | None, cut: Windows, *, draw: bool) -> None:
    """Prints a table and writes one JSON line per file or window; `draw` adds a picture of the model's attention.

    Both are written as it goes, see `records.py`. Files that cannot be read are among the records with the reason, and
    named at the end.

    Raises:
      UserError: no input, or nothing that can be read.
      SomeFailed: some files could not be read.
    """
    paths = find_inputs(patterns, RECORDING_SUFFIXES + (TEXT_SUFFIXES if model.takes_text else ()))
    if output:
        records.refuse_inputs(output, paths)
    asked = {"models": [[one.weight, one.trained.description] for one in model.members], **dataclasses.asdict(cut)}
    with records.Records(output, asked, () if model.by_speaker else paths) as kept:
        drawn = (output.parent if output else pathlib.Path()) if draw else None
        pictures = _predict_all(model, paths, kept, cut, drawn)
    if output is None:
        print("\n".join(json.dumps(record) for record in kept.lines))
    print("\n".join(f"attention drawn: {picture}" for picture in pictures), end="\n" if pictures else "")
    if output:
        print(f"as JSON lines: {output}", file=sys.stderr)
    if failures := kept.failures:
        more = f"; and {len(failures) - 5} more" + (f", see {output}" if output else "") if len(failures) > 5 else ""
        kind = UserError if len(failures) == len(paths) else SomeFailed
        raise kind(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]) + more)


def _predict_all(
    model: Model, paths: Sequence[pathlib.Path], kept: records.Records, cut: Windows, drawn: pathlib.Path | None
) -> list[pathlib.Path]:
    """Predicts what has no record yet, part by part; returns pictures, drawn into the folder `drawn` if it is named."""
    todo = [path for path in paths if model.by_speaker or str(path) not in kept.earlier]
    width, timed, gaps = max(len(printable(path)) for path in paths), bool(cut.window_s), Gaps()
    times = "    from s     to s" if timed else ""
    print(f"{'file':{width}}{times}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in model.labels))
    pictures: list[pathlib.Path] = []
    for part in _parts(todo, at_once=len(todo) if model.by_speaker else PART_FILES):
        opened = [one for one in part.values() if isinstance(one, Recording)]
        scored = dict(zip(opened, model.score(opened, cut, gaps) if opened else [], strict=True))
        made: list[dict] = []
        for path, one in part.items():
            rows = one if isinstance(one, UserError) else scored[one]
            if isinstance(rows, UserError):
                made.append({"file": str(path), "error": str(rows)})
                continue
            made += [record_of(model, row, path, timed) for row in rows]
            if unlike := next((row.notices for row in rows if row.notices), ()):
                logging.warning("%s is unlike the training clips: %s", printable(path), "; ".join(unlike))
            for row in rows:
                print(_line(row, path, width, timed), flush=True)
        if drawn is not None:
            pictures += _draw(model, {one: rows for one, rows in scored.items() if isinstance(rows, list)}, gaps, drawn,
                              pictures)  # fmt: skip
        kept.add(made)
    gaps.warn()
    return pictures


def _parts(paths: Sequence[pathlib.Path], at_once: int) -> Iterator[dict[pathlib.Path, Recording | UserError]]:
    """Every path with its recording, or why there is none: so many at once, fewer long ones unless it is all."""
    part: dict[pathlib.Path, Recording | UserError] = {}
    samples = 0
    for path in paths:
        try:
            part[path] = one = recordings.read(path)
            samples += len(one.samples)
        except UserError as error:
            part[path] = error
        if len(part) >= at_once or (samples > PART_SAMPLES and at_once < len(paths)):
            yield part
            part, samples = {}, 0
    if part:
        yield part


def _draw(
    model: Model, scored: dict[Recording, list[Prediction]], gaps: Gaps, folder: pathlib.Path,
    taken: Sequence[pathlib.Path],
) -> list[pathlib.Path]:  # fmt: skip
    """The attention of the only member; its features are made once more, which takes less than the drawing."""
    if not scored:
        return []
    ((member, utterances, _, _),) = model.features(list(scored), gaps)
    p = np.array([list(row.probabilities.values()) for (row,) in scored.values()])
    return explain.draw(member.trained, utterances, p, folder, taken)


def record_of(model: Model, row: Prediction, path: pathlib.Path, timed: bool) -> dict:
    """What a JSON line holds. A silent window has no emotion, and no probabilities."""
    times = {"start_s": round(row.start_s, 3), "end_s": round(row.end_s, 3), "silent": row.silent} if timed else {}
    made = {
        "file": str(path),
        **times,
        "emotion": row.label or None,
        "probabilities": {label: round(p, 6) for label, p in row.probabilities.items()},
        "trained_on": model.corpus,
    }
    made |= {"unsure": row.unsure} if model.least_confidence else {}
    return made | ({"notices": list(row.notices)} if row.notices else {})


def _line(row: Prediction, path: pathlib.Path, width: int, timed: bool) -> str:
    times = f"  {row.start_s:8.2f} {row.end_s:8.2f}" if timed else ""
    values = "  ".join(f"{p:9.3f}" for p in row.probabilities.values())
    label = "unsure" if row.unsure else row.label or "(silence)"
    return f"{printable(path):{width}}{times}  {label:10}  {values}".rstrip()


def find_inputs(patterns: Sequence[str], suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    """Files named by paths, folders (with all folders in them) and glob patterns, each once, sorted within a folder.

    Folders are searched as in training (`scan.search`); one that cannot be listed is returned in the place of its
    files, so that it is reported like a file that cannot be read.

    Raises:
      UserError: a pattern without a file.
    """
    paths: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern)
        named = [path] if os.path.lexists(path) else map(pathlib.Path, sorted(glob.glob(pattern, recursive=True)))
        files = [file for one in named for file in (_inside(one, suffixes) if one.is_dir() else [one])]
        if not files:
            raise UserError(f"--inputs={pattern}: no {'/'.join(suffixes)} file there; name a file, a folder or a glob")
        paths |= dict.fromkeys(files)
    return list(paths)


def _inside(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    result = scan.search(folder, suffixes)
    if sentence := result.sentence(folder):
        logging.info("%s", sentence)
    return [pathlib.Path(name) for name in (*result.files, *result.unreadable)]
