"""A corpus's shards by Apache Beam, on this machine or a cluster, instead of `build`'s own worker processes.

    python main.py --config=configs/cnn2.py --mode=precompute --runner=DirectRunner
    python main.py --config=configs/cnn2.py --mode=precompute --runner=FlinkRunner -- --flink_master=HOST:8081

Options after `--` are passed to Beam. An element is a shard: its number and its clips. A worker calls the same function
as a local process, which writes a complete file or none; so the bytes are the same, and shards that Beam writes twice
do no harm. No features pass through Beam: recordings and config.data.cache_dir must be on a file system with the same
path on every worker and this machine, and workers need this repository's packages.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import threadpoolctl

from emoflax.data import shards
from emoflax.data.clip import Clip
from emoflax.errors import UserError, optional

# DirectRunner by its class name: by its short name, Beam first tries to download another runner. Dask's has none.
RUNNERS = {
    "DirectRunner": "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner",
    "DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner",
    "FlinkRunner": "FlinkRunner",
    "SparkRunner": "SparkRunner",
    "DataflowRunner": "DataflowRunner",
}


def write_shards(
    write: Callable[[Path, int, Sequence[Clip]], None],
    folder: Path,
    parts: Mapping[int, Sequence[Clip]],
    runner: str,
    options: Sequence[str],
) -> None:
    """Writes those shards and returns when all are there.

    Args:
      write: makes one shard: `build.write_log_mel_shard` or another of its kind, with its settings.
      parts: number -> clips of each shard; they travel in the pipeline, about 130 bytes a clip.
      runner: a name from RUNNERS.
      options: Beam's own, as on a command line.

    Raises:
      UserError: no such runner, Beam is not installed, or the pipeline failed. Finished shards are kept.
    """
    if runner not in RUNNERS:
        raise UserError(f"--runner={runner} is not known; allowed are {', '.join(RUNNERS)}.")
    with optional(f"--runner={runner}", "beam"):  # for Dataflow also: pip install 'apache-beam[gcp]'
        import apache_beam as beam  # seconds
        from apache_beam.options.pipeline_options import PipelineOptions
    if runner == "DaskRunner" and importlib.util.find_spec("distributed") is None:
        raise UserError("--runner=DaskRunner needs Dask, which is not installed: pip install 'apache-beam[dask]'")
    try:
        settings = PipelineOptions([f"--runner={RUNNERS[runner]}", *options])
        with threadpoolctl.threadpool_limits(1), beam.Pipeline(options=settings) as pipeline:
            pipeline | beam.Create(parts.items()) | beam.Map(_write_shard, write, folder)
    except SystemExit as error:
        raise UserError(f"Apache Beam refuses one of its options (after --): {' '.join(options)}") from error
    except Exception as error:  # every runner raises its own; the last line of the message is the cause
        reason = str(error).strip().rpartition("\n")[2] or type(error).__name__
        raise UserError(
            f"Precompute on {runner} failed; finished shards are kept, the same command continues from them: {reason}"
        ) from error
    if missing := [number for number, clips in parts.items() if shards.clips_done(folder, number) != len(clips)]:
        raise UserError(
            f"{runner} ended, but {len(missing)} of {len(parts)} shards are not in {folder}: set "
            "--config.data.cache_dir to a folder that all of its workers and this machine share."
        )


def _write_shard(part: tuple[int, Sequence[Clip]], write: Callable[..., None], folder: Path) -> None:
    threadpoolctl.threadpool_limits(1)  # as in a local process, so that sums are the same on any machine
    write(folder, *part)
