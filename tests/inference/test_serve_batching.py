"""Batches of recordings: what arrives together is predicted together, and no recording costs another its answer."""

import threading

import numpy as np
import pytest

from emoflax.errors import UserError
from emoflax.inference.recordings import Recording
from emoflax.inference.serve.batching import Batcher, Busy
from emoflax.inference.windows import WHOLE, Windows


class Slow:
    """Scores when it is let: the recording's name for a prediction; 'bad' has none, 'worse' ends the batch."""

    takes_text = False

    def __init__(self):
        self.batches, self.go, self.begun = [], threading.Semaphore(0), threading.Semaphore(0)

    def score(self, opened, cut, gaps):
        self.batches.append(([one.name for one in opened], cut))
        self.begun.release()
        assert self.go.acquire(timeout=20)
        if any(one.name == "worse" for one in opened):
            raise RuntimeError("a bug")
        return [UserError("bad") if one.name == "bad" else [one.name] for one in opened]


def recording(name: str, seconds: float = 1.0) -> Recording:
    return Recording(name, np.zeros(round(16_000 * seconds), np.float32))


@pytest.fixture
def slow():
    model = Slow()
    batcher = Batcher(model, batch_ms=0.0, batch_rows=4, most_held_s=10.0)
    yield model, batcher
    model.go.release(100)
    batcher.stop()


def hold(model, batcher):
    """Keeps the model busy with a first recording, while others arrive."""
    first = batcher.submit(recording("first"), WHOLE)
    assert model.begun.acquire(timeout=20)
    return first


def test_what_arrives_while_the_model_is_at_work_is_one_batch_and_other_windows_another(slow):
    model, batcher = slow
    hold(model, batcher)
    names = ["a", "b", "c", "d", "e"]
    jobs = [batcher.submit(recording(name), Windows(1.0) if name == "b" else WHOLE) for name in names]
    model.go.release(100)
    assert [job.result(20)[0] for job in jobs] == [[name] for name in names]
    assert model.batches[1:] == [(["a", "c", "d"], WHOLE), (["b"], Windows(1.0)), (["e"], WHOLE)]


def test_a_recording_that_fails_or_ends_a_batch_costs_the_others_nothing(slow):
    model, batcher = slow
    hold(model, batcher)
    jobs = {name: batcher.submit(recording(name), WHOLE) for name in ("a", "bad", "worse", "b")}
    model.go.release(100)
    assert jobs["a"].result(20)[0] == ["a"] and jobs["b"].result(20)[0] == ["b"]
    assert isinstance(jobs["bad"].exception(20), UserError) and isinstance(jobs["worse"].exception(20), RuntimeError)


def test_what_nobody_waits_for_any_more_is_not_predicted_and_makes_room(slow):
    model, batcher = slow
    hold(model, batcher)
    given_up, kept = batcher.submit(recording("given up", 6.0), WHOLE), batcher.submit(recording("kept"), WHOLE)
    with pytest.raises(Busy):
        batcher.submit(recording("too much", 5.0), WHOLE)
    assert given_up.cancel() and batcher.held_s == 2.0
    late = batcher.submit(recording("late", 5.0), WHOLE)
    model.go.release(100)
    assert (kept.result(20)[0], late.result(20)[0]) == (["kept"], ["late"])
    assert all("given up" not in names for names, _ in model.batches) and batcher.held_s == 0.0


def test_stopping_finishes_what_was_submitted(slow):
    model, batcher = slow
    hold(model, batcher)
    jobs = [batcher.submit(recording(str(number)), WHOLE) for number in range(6)]
    model.go.release(100)
    batcher.stop()
    assert [job.result(0)[0] for job in jobs] == [[str(number)] for number in range(6)]
