"""Tasks in processes of their own. This file imports little: every process imports it again."""

import os
import signal

import pytest

from emoflax.errors import UserError
from emoflax.parallel import workers


def number(task):
    if task == "bad":
        raise UserError("one clear sentence")
    if task == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_workers_answer_every_task_in_processes_of_their_own():
    answers = dict(workers.run(number, list("abcdef"), 2))
    assert sorted(answers) == list(range(6)) and os.getpid() not in answers.values()


@pytest.mark.parametrize(("task", "sentence"), [("bad", "one clear sentence"), ("killed", "memory ran out")])
def test_a_worker_that_fails_or_is_killed_ends_the_others_with_a_sentence(task, sentence):
    with pytest.raises(UserError, match=sentence):
        list(workers.run(number, [task, "fine"], 2))
