"""EmoFlax: trains, evaluates and applies speech-emotion classifiers.

    python main.py --config=cnn2 [--mode=MODE] [--config.FIELD=VALUE ...]     (installed: emoflax --config=cnn2 ...)

--config takes the name of a packaged config (--config=? lists them) or the path of a file of your own;
configs/default.py lists every FIELD with its unit.
"""

import errno
import os
import pathlib
import signal
import sys

from absl import flags, logging
from ml_collections import ConfigDict

from emoflax import command_line
from emoflax.errors import UserError
from emoflax.files import expanded

MODES = {
    "train": "train what is not trained yet, score the test clips, report",
    "eval": "score and report again, from the checkpoints; with --checkpoint=RUN, on another corpus",
    "crossval": "choose on training speakers, fold by fold, then score the test clips once",
    "fit": "train what crossval chose on all speakers, and write it as a bundle to use anywhere",
    "sweep": "search settings on training speakers",
    "probe": "score the layers of a pretrained Whisper, fold by fold: --config=probe",
    "compare": "differences between runs, with intervals and p values: --runs=RUN_A,RUN_B",
    "predict": "use a trained model: --checkpoint=RUN/seed0-fold1 --inputs=a.wav",
    "export": "a trained model as one file that runs without emoflax: --bundle=PATH --format=onnx --output=FILE",
    "serve": "a model behind HTTP, with a page to try it on: --bundle=BUNDLE --port=8000",
    "precompute": "fill the cache, and train nothing",
    "benchmark": "our speed beside PyTorch's",
}
HELP = "\n".join([__doc__, "modes:", *(f"  {name:12}{text}" for name, text in MODES.items())])
MODEL_MODES = ("predict", "export", "serve")  # which take a trained model and need no config
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

CONFIG = command_line.define_config("What to train: a packaged config such as cnn2, or the path of a config file.")
MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do, see above.")
PATH = command_line.PathParser()
WORKDIR = flags.DEFINE(PATH, "workdir", "runs", "Folder for checkpoints, logs and reports; one folder per run in it.")
CHECKPOINT = flags.DEFINE(
    PATH, "checkpoint", None, "predict: a bundle, a model such as RUN/seed0-fold1, or a RUN, whose models are pooled; "
    "eval: a model or a RUN.",
)  # fmt: skip
INPUTS = flags.DEFINE_multi(
    PATH, flags.ArgumentSerializer(), "inputs", [],
    "predict: recordings: a file, a folder or a glob, may be repeated; - for standard input, a recording "
    "or names of files; mic or mic:DEVICE.",
)  # fmt: skip
OUTPUT = flags.DEFINE(
    PATH,
    "output",
    None,
    "predict: file for the records, by suffix JSON lines, .csv or .parquet. fit: folder of the bundle. "
    "export: the file.",
)
WINDOW_S = flags.DEFINE_float("window_s", 0.0, "predict: a row for every window of so many seconds; 0: one per file.")
HOP_S = flags.DEFINE_float("hop_s", 0.0, "predict: from one window to the next; 0: windows do not overlap.")
SMOOTH_S = flags.DEFINE_float("smooth_s", 0.0, "predict: windows are averaged with those this close together; 0: off.")
VAD = flags.DEFINE_bool("vad", False, "predict: mark what is not speech, and do not predict it (extra vad).")
PLOT = flags.DEFINE_bool("plot", False, "predict, with --window_s: draw each recording's probabilities over time.")
EXPLAIN = flags.DEFINE_bool("explain", False, "predict: draw the attention over each input's spectrogram and words.")
FINAL = flags.DEFINE_bool("final", False, "crossval: then do --mode=fit, too: the bundle that --output names.")
FORMAT = flags.DEFINE_enum(
    "format", None, ["stablehlo", "onnx", "safetensors", "page"], "export: of the file; page: a folder."
)
ONNXRUNTIME_WEB = flags.DEFINE(
    PATH, "onnxruntime_web", None, "export --format=page: folder of the unpacked npm package onnxruntime-web."
)
EXPORT_INPUT = flags.DEFINE_enum(
    "export_input", "waveform", ["waveform", "features"], "export: what the program takes; features: where the model's "
    "front end has no exported form, such as pitch contours and words.",
)  # fmt: skip
BUNDLE = flags.DEFINE(PATH, "bundle", None, "export, serve: a bundle, or what --checkpoint of predict takes.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address to bind; 0.0.0.0 lets other machines in, unprotected.")
PORT = flags.DEFINE_integer("port", 8000, "serve: 0 takes one that is free.", 0, 65_535)
LIMITS = flags.DEFINE_list("limits", [], "serve: NAME=VALUE,...: what it accepts at most, see docs/service.md.")
RUNS = flags.DEFINE_list("runs", [], "compare: folders of runs, with commas between them.")
RUNNER = flags.DEFINE_string(
    "runner", None, "precompute: a runner of Apache Beam, e.g. DirectRunner; its own options follow after --."
)
MULTIHOST = flags.DEFINE_bool("multihost", False, "train, eval, precompute: as one of several processes of a cluster.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "multihost: HOST:PORT of process 0; without it, the cluster's.")
PROCESSES = flags.DEFINE_integer("processes", None, "multihost, with --coordinator: how many there are.")
PROCESS = flags.DEFINE_integer("process", None, "multihost, with --coordinator: number of this one, from 0 on.")
COORDINATOR_TIMEOUT_S = flags.DEFINE_integer("coordinator_timeout_s", 300, "multihost: how long to wait for others.")
OPEN = flags.DEFINE_bool("open", False, "train, eval, crossval, probe, compare: open the report in a browser.")
RECORD = flags.DEFINE_bool("record", False, "train, eval, crossval, probe: append the result to configs/results.jsonl.")


def main(argv: list[str]) -> None:
    mode, config, workdir, record = MODE.value, CONFIG.value, pathlib.Path(WORKDIR.value), RECORD.value
    if argv[1:] and not RUNNER.value:
        raise UserError(f"{argv[1]!r} is not a flag; --help lists them")
    signal.signal(signal.SIGINT, command_line.interrupt)
    signal.signal(signal.SIGTERM, command_line.interrupt)  # a cluster's notice to leave is a Ctrl-C
    sys.unraisablehook = command_line.unraisable
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that are no text
    logging.get_absl_handler().setFormatter(None)
    logging.get_absl_handler().addFilter(command_line.is_shown)
    from emoflax.experiment import checks
    from emoflax.parallel import mesh, multihost, peers

    if config is not None:
        if RUNNER.value:
            config.precompute.update(runner=RUNNER.value, runner_options=tuple(argv[1:]))
        of_checkpoint = mode in (*MODEL_MODES, "compare") or (mode == "eval" and CHECKPOINT.value)
        checks.check(config) if of_checkpoint else checks.prepare(config)
    elif mode not in (*MODEL_MODES, "compare"):
        raise UserError(f"--mode={mode} needs --config; try --config=cnn2")
    mesh.split_processor()
    multihost.connect(
        MULTIHOST.value, mode, COORDINATOR.value, PROCESSES.value, PROCESS.value, COORDINATOR_TIMEOUT_S.value
    )
    if mode in MODEL_MODES:
        use_model(mode, config, workdir)
        return
    from emoflax import job

    jobs = {
        "train": lambda: job.train_and_report(config, workdir, train=True, record=record),
        "eval": lambda: (
            job.transfer(config, workdir, CHECKPOINT.value, record=record)
            if CHECKPOINT.value
            else job.train_and_report(config, workdir, train=False, record=record)
        ),
        "crossval": lambda: job.crossval(config, workdir, record=record, final=FINAL.value, output=OUTPUT.value),
        "fit": lambda: job.fit(config, workdir, OUTPUT.value),
        "sweep": lambda: job.sweep(config, workdir),
        "probe": lambda: job.probe(config, workdir, record=record),
        "compare": lambda: job.compare(config, [str(expanded(run)) for run in RUNS.value], workdir),
        "precompute": lambda: job.precompute(config),
        "benchmark": lambda: job.benchmark(config, workdir),
    }
    try:
        made = jobs[mode]()
    except KeyboardInterrupt:
        peers.leave()  # a cluster interrupts all, and each ends in order
        raise
    peers.leave()
    if OPEN.value:
        command_line.open_page(made)


def use_model(mode: str, config: ConfigDict | None, workdir: pathlib.Path) -> None:
    """Modes of a trained model; without `job`, for what trains takes two seconds to import."""
    model = BUNDLE.value or CHECKPOINT.value
    if mode == "predict":
        from emoflax.inference import command, windows

        cut = windows.Windows(WINDOW_S.value, HOP_S.value, SMOOTH_S.value, VAD.value)
        command.run(
            config, workdir, CHECKPOINT.value, INPUTS.value, OUTPUT.value,
            draw=EXPLAIN.value, plot=PLOT.value, cut=cut,
        )  # fmt: skip
    elif mode == "export":
        from emoflax.inference import export

        export.run(model, FORMAT.value, EXPORT_INPUT.value, OUTPUT.value, ONNXRUNTIME_WEB.value)
    else:
        from emoflax.inference.serve import command as service
        from emoflax.inference.serve import settings

        service.run(model, HOST.value, PORT.value, settings.parsed(LIMITS.value))


def run() -> int:
    """Exit status: 0, 2 after a mistake that one sentence explains, 3 if some files failed, 130 if interrupted."""
    try:
        command_line.run(main, HELP)
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
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
        print(f"\n{command_line.INTERRUPTED}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
