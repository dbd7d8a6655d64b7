"""What the service answers: predictions as JSON or CSV, errors as one sentence."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from emoflax.errors import UserError
from emoflax.features.containers import REMEDY
from emoflax.inference.model import Model, Prediction
from emoflax.inference.recordings import Recording

CSV = "text/csv"


class Row(BaseModel):
    """Of a recording, or of a window of it. A silent window has no emotion and no probabilities."""

    start_s: float
    end_s: float
    emotion: str | None
    probabilities: dict[str, float]
    silent: bool
    unsure: bool


class Attention(BaseModel):
    """How much the model weighs each moment, where 1 is the mean: one value every `hop_s` from `start_s` on."""

    start_s: float
    hop_s: float
    values: list[float]


class Answer(BaseModel):
    """Of an upload. `notices`: in which ways it is unlike the training recordings, and other limits of this answer.

    `attention` is there if it was asked for and the model has it.
    """

    file: str
    duration_s: float
    trained_on: str
    notices: list[str]
    predictions: list[Row]
    attention: Attention | None = None


class Problem(BaseModel):
    """Of every status from 400 on: what is wrong, and what is allowed."""

    error: str


class Refused(Exception):
    """An answer with another status than 200, and when to try again, in s."""

    def __init__(self, status: int, sentence: str, retry_after_s: float | None = None):
        super().__init__(sentence)
        self.status = status
        self.headers = {"Retry-After": str(math.ceil(retry_after_s))} if retry_after_s is not None else {}


def row_of(row: Prediction) -> dict[str, Any]:
    return {
        "start_s": round(row.start_s, 3),
        "end_s": round(row.end_s, 3),
        "emotion": row.label or None,
        "probabilities": {label: round(p, 6) for label, p in row.probabilities.items()},
        "silent": row.silent,
        "unsure": row.unsure,
    }


def answer(model: Model, recording: Recording, rows: Sequence[Prediction], said: Sequence[str]) -> dict[str, Any]:
    """As `Answer`. `said`: sentences about this recording beside its notices."""
    notices = [*(rows[0].notices if rows else ()), *said, *([model.notice] if model.notice else [])]
    return {
        "file": recording.name,
        "duration_s": round(recording.seconds, 3),
        "trained_on": model.corpus,
        "notices": notices,
        "predictions": [row_of(row) for row in rows],
    }


def as_csv(labels: Sequence[str], made: dict[str, Any]) -> str:
    """One line per row; notices have no column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "start_s", "end_s", "emotion", "silent", "unsure", *labels])
    for row in made["predictions"]:
        marks = [int(row["silent"]), int(row["unsure"])]
        p = [row["probabilities"].get(label, "") for label in labels]
        writer.writerow([_cell(made["file"]), row["start_s"], row["end_s"], row["emotion"] or "", *marks, *p])
    return text.getvalue()


def sentence_of(error: UserError) -> str:
    """Without the advice about a corpus, which an upload is not of."""
    return str(error).removesuffix(REMEDY).rstrip()


def _cell(name: str) -> str:
    """A spreadsheet takes what begins so for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
