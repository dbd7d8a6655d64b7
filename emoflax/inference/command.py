"""--mode=predict: finds the model; with a bundle, a run or windows, a table and JSON lines, a row per window."""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

from absl import logging
from ml_collections import ConfigDict

from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import UserError
from emoflax.experiment.members import members, run_folder
from emoflax.inference import compile_cache, recordings, sources
from emoflax.inference import predict as of_checkpoint
from emoflax.inference.model import Model, Prediction, load
from emoflax.inference.predict import TEXT_SUFFIXES, find_inputs
from emoflax.inference.windows import Windows

_AT_ONCE = 16  # recordings that are in memory


def run(
    config: ConfigDict | None, workdir: pathlib.Path, checkpoint: str | None, inputs: Sequence[str],
    output: str | None, *, explain: bool, cut: Windows,
) -> None:  # fmt: skip
    """Predicts with a bundle, checkpoint or run that is named, or with the first model of the config's run.

    Raises:
      UserError: no input, no model, or a combination that cannot be; or as of `predict`.
    """
    if not inputs:
        raise UserError("--mode=predict needs --inputs: a recording, a folder of them, or a glob")
    if checkpoint is None and config is None:
        raise UserError(
            "--mode=predict needs --checkpoint=BUNDLE or RUN/seed0-fold1, or the --config that trained the model"
        )
    folder = _first_model(config, workdir) if checkpoint is None else pathlib.Path(checkpoint)
    place = pathlib.Path(output) if output else None
    if sources.is_checkpoint(folder) and not cut.window_s:
        compile_cache.keep(compile_cache.folder())
        of_checkpoint.predict(sources.checkpoints_in(folder), inputs, place, explain=explain)
        return
    if explain:
        raise UserError("--explain draws the attention of one model over whole recordings: name RUN/seed0-fold1")
    predict(load(folder), inputs, place, cut)


def _first_model(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    from emoflax import corpora

    corpus = corpora.load(config.data.corpus, config.data.dir, config.data.cache_dir)
    return members(config, corpus, run_folder(workdir, config, corpus))[0].folder


def predict(model: Model, patterns: Sequence[str], output: pathlib.Path | None, cut: Windows) -> None:
    """Prints a table, and writes one JSON line per row, as it goes.

    Files that cannot be read are named at the end, after the others are predicted.

    Raises:
      UserError: no input, or files that cannot be read.
    """
    if model.notice:
        logging.warning("%s", model.notice)
    paths = find_inputs(patterns, RECORDING_SUFFIXES + (TEXT_SUFFIXES if model.takes_text else ()))
    width, failures, lines = max(len(str(path)) for path in paths), [], []
    times = "    from s     to s" if cut.window_s else ""
    print(f"{'file':{width}}{times}  {'emotion':10}  " + "  ".join(f"{label[:9]:>9}" for label in model.labels))
    with open(output, "w", encoding="utf-8") if output else _NoFile() as file:
        for path, rows in _rows(model, paths, cut):
            if isinstance(rows, UserError):
                failures.append(str(rows))
                continue
            for row in rows:
                print(_line(row, path, width, bool(cut.window_s)))
            records = [json.dumps(record_of(model, row, path, bool(cut.window_s))) + "\n" for row in rows]
            file.write("".join(records))
            lines += records if output is None else []
    print("".join(lines), end="")
    if output:
        print(f"as JSON lines: {output}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} files could not be read: " + "; ".join(failures[:5]))


class _NoFile:
    """In the place of a file, where there is none."""

    def __enter__(self) -> "_NoFile":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, text: str) -> None:
        pass


def _rows(
    model: Model, paths: Sequence[pathlib.Path], cut: Windows
) -> Iterator[tuple[pathlib.Path, list[Prediction] | UserError]]:
    """Every path with its predictions, or why there are none; all at once if they are one speaker's."""
    at_once = len(paths) if model.by_speaker else _AT_ONCE
    for begin in range(0, len(paths), at_once):
        opened: dict[pathlib.Path, recordings.Recording] = {}
        made: dict[pathlib.Path, list[Prediction] | UserError] = {}
        for path in paths[begin : begin + at_once]:
            try:
                opened[path] = recordings.read(path)
            except UserError as error:
                made[path] = error
        made |= dict(zip(opened, model.score(list(opened.values()), cut) if opened else [], strict=True))
        yield from ((path, made[path]) for path in paths[begin : begin + at_once])


def record_of(model: Model, row: Prediction, path: pathlib.Path, with_times: bool) -> dict:
    """What a JSON line holds. A silent window has no emotion, and no probabilities."""
    times = {"start_s": round(row.start_s, 3), "end_s": round(row.end_s, 3), "silent": row.silent} if with_times else {}
    return {
        "file": str(path),
        **times,
        "emotion": row.label or None,
        "probabilities": {label: round(p, 6) for label, p in row.probabilities.items()},
        "trained_on": model.corpus,
    }


def _line(row: Prediction, path: pathlib.Path, width: int, with_times: bool) -> str:
    times = f"  {row.start_s:8.2f} {row.end_s:8.2f}" if with_times else ""
    values = "  ".join(f"{p:9.3f}" for p in row.probabilities.values())
    return f"{path!s:{width}}{times}  {row.label or '(silence)':10}  {values}".rstrip()
