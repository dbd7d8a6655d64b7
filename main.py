"""EmoFlax's single entry point: flags and dispatch, nothing else.

python main.py --config=configs/cnn2.py                                   train, evaluate, report
python main.py --config=configs/cnn2.py --mode=precompute                 fill the cache only
python main.py --config=configs/cnn2.py --mode=eval                       report again, from the checkpoints
python main.py --config=configs/cnn2.py --mode=crossval                   choose on training speakers, fold by fold
python main.py --config=configs/probe.py --mode=probe                     score Whisper's layers, fold by fold
python main.py --config=configs/sweep.py --mode=sweep                     search settings on training speakers
python main.py --mode=compare --runs=RUN_A,RUN_B                          differences, with intervals and p values
python main.py --config=configs/cnn2.py --mode=benchmark                  our speed beside PyTorch's
python main.py --config=configs/cnn2.py --multihost                       one of several processes on a cluster
python main.py --mode=predict --checkpoint=RUN/seed0-fold1 --inputs=a.wav    use a trained model
"""

import errno
import logging as std_logging
import pathlib
import signal
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from emoflax.errors import UserError
from emoflax.experiment.model import resolve

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train, e.g. configs/cnn2.py.", lock_config=True)
MODES = ("train", "eval", "crossval", "compare", "sweep", "probe", "predict", "precompute", "benchmark")
MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
WORKDIR = flags.DEFINE_string("workdir", "runs", "Folder for checkpoints, logs and reports; one folder per run in it.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "predict: folder of a trained model, e.g. RUN/seed0-fold1.")
INPUTS = flags.DEFINE_multi_string("inputs", [], "predict: recordings: a file, a folder or a glob; may be repeated.")
OUTPUT = flags.DEFINE_string("output", None, "predict: file for the JSON lines; without it they follow the table.")
EXPLAIN = flags.DEFINE_bool("explain", False, "predict: draw the attention over each input's spectrogram and words.")
RUNS = flags.DEFINE_list("runs", [], "compare: folders of runs, with commas between them.")
RUNNER = flags.DEFINE_string(
    "runner", None, "precompute: Apache Beam's runner in the place of local processes, e.g. DirectRunner; Beam's own "
    "options follow after --.",
)  # fmt: skip
MULTIHOST = flags.DEFINE_bool("multihost", False, "train, eval, precompute: as one of several processes of a cluster.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "multihost: HOST:PORT of process 0; without it, the cluster's.")
PROCESSES = flags.DEFINE_integer("processes", None, "multihost, with --coordinator: how many there are.")
PROCESS = flags.DEFINE_integer("process", None, "multihost, with --coordinator: number of this one, from 0 on.")
COORDINATOR_TIMEOUT_S = flags.DEFINE_integer("coordinator_timeout_s", 300, "multihost: how long to wait for others.")
RECORD = flags.DEFINE_bool("record", False, "train, eval, crossval, probe: append the result to configs/results.jsonl.")


def main(argv: list[str]) -> None:
    if argv[1:] and not RUNNER.value:
        raise UserError(f"{argv[1]!r} is not a flag; see python main.py --help")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster's notice to leave is a Ctrl-C
    logging.get_absl_handler().setFormatter(None)
    logging.get_absl_handler().addFilter(ours)
    from emoflax import job
    from emoflax.parallel import mesh, multihost

    if MODE.value != "predict":  # which may be of one clip
        mesh.split_processor()
    multihost.connect(
        MULTIHOST.value, MODE.value, COORDINATOR.value, PROCESSES.value, PROCESS.value, COORDINATOR_TIMEOUT_S.value
    )
    if MODE.value == "predict":
        job.predict(
            CONFIG.value, pathlib.Path(WORKDIR.value), CHECKPOINT.value, INPUTS.value, OUTPUT.value,
            explain=EXPLAIN.value,
        )  # fmt: skip
        return
    if MODE.value == "compare":
        job.compare(RUNS.value, pathlib.Path(WORKDIR.value))
        return
    if CONFIG.value is None:
        raise UserError("--config is missing; try python main.py --config=configs/cnn2.py")
    if RUNNER.value:
        CONFIG.value.precompute.update(runner=RUNNER.value, runner_options=tuple(argv[1:]))
    resolve(CONFIG.value)
    if MODE.value == "precompute":
        job.precompute(CONFIG.value)
    elif MODE.value == "crossval":
        job.crossval(CONFIG.value, pathlib.Path(WORKDIR.value), record=RECORD.value)
    elif MODE.value == "sweep":
        job.sweep(CONFIG.value, pathlib.Path(WORKDIR.value))
    elif MODE.value == "probe":
        job.probe(CONFIG.value, pathlib.Path(WORKDIR.value), record=RECORD.value)
    elif MODE.value == "benchmark":
        job.benchmark(CONFIG.value, pathlib.Path(WORKDIR.value))
    else:
        job.train_and_report(
            CONFIG.value, pathlib.Path(WORKDIR.value), train=MODE.value == "train", record=RECORD.value
        )


def ours(record) -> bool:
    """Keeps our own words and the libraries' warnings, but orbax's: it narrates every save, and raises what matters."""
    folders = {pathlib.Path(__file__).parent / name for name in ("emoflax", "precompute")}
    path = pathlib.Path(record.pathname)
    return not folders.isdisjoint(path.parents) or (record.levelno >= std_logging.WARNING and "orbax" not in path.parts)


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with a sentence instead of a traceback for a field or a file that does not exist."""
    try:
        rest = app.parse_flags_with_usage(argv)
        if CONFIG.value is not None:
            CONFIG.value.lock()  # a config file that could not be loaded is noticed only when it is touched
        return rest
    except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        reason = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").split()).strip("\"'")
        raise UserError(f"--config: {reason}. configs/default.py lists every field with its unit") from error


def run() -> int:
    """Exit status: 0, 2 after a mistake that one sentence explains, 130 after an interruption."""
    try:
        app.run(main, flags_parser=parse)
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        print(
            f"\nerror: {error.filename or 'a file'}: {error.strerror}; make room or choose another folder "
            "(--workdir, --config.data.cache_dir); what was finished is kept",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
