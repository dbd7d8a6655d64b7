"""Times the states of a Whisper beside openai-whisper's own encoder, on the same clips, in one run.

    python -m emoflax.benchmark.states --weights=tiny.en

Clips are noise of 3 to 5 s, as long as those of RAVDESS: what they hold does not matter to time. Ours are timed whole,
log-mel and statistics of all layers included, with the config's silence behind each clip and with the 30 s that Whisper
was trained with; openai-whisper's with its own log-mel of 30 s, in batches of the same size. Before that, means over
time of the encoder's output must be equal, with 30 s of silence.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from emoflax.benchmark import script
from emoflax.errors import UserError
from emoflax.features import log_mel, states, whisper_mel

RATE_HZ, WHOLE_S, RAVDESS_CLIPS, REPEATS = 16_000, 30.0, 1440, 3
_TOLERANCE = 2e-3  # of the largest mean


def waves(count: int) -> list[np.ndarray]:
    """Float32 [samples] each, 3 to 5 s of noise in a tenth of full scale."""
    random = np.random.default_rng(0)
    lengths = random.integers(3 * RATE_HZ, 5 * RATE_HZ, count)
    return [0.1 * random.standard_normal(length).astype(np.float32) for length in lengths]


def ours(weights: str, silence_s: float, batch: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Waveforms -> states [clips, layers, statistics, width]."""
    encoder = states.load("whisper", weights, silence_s=silence_s, parts=0, batch=batch)
    audio = {name: value for name, value in encoder.audio.items() if name != "trim_db"}
    return lambda clips: encoder([log_mel.of_wave(clip, **audio) for clip in clips])


def theirs(weights: str, batch: int) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Waveforms -> the encoder's output, [clips, 1500, width].

    Raises:
      UserError: openai-whisper is not installed, or cannot read the weights.
    """
    try:
        import torch
        import whisper
    except ImportError as error:
        raise UserError("this compares with openai-whisper: pip install 'emoflax[whisper]'") from error
    try:
        model = whisper.load_model(weights, device="cpu").eval()
    except (RuntimeError, OSError) as error:
        raise UserError(f"openai-whisper cannot read --weights={weights} ({error}); name one of its models") from error

    def run(clips: Sequence[np.ndarray]) -> np.ndarray:
        mels = [whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), n_mels=model.dims.n_mels) for clip in clips]
        with torch.inference_mode():
            parts = [model.encoder(torch.stack(mels[i : i + batch])) for i in range(0, len(mels), batch)]
        return torch.cat(parts).numpy()

    return run


def check_equal(own: np.ndarray, other: np.ndarray, clips: Sequence[np.ndarray]) -> None:
    """Compares the means over each clip's own steps, of the last layer. Raises UserError where they differ."""
    steps = [-(-len(whisper_mel.log_mel(clip, mels=80)) // 2) for clip in clips]
    means = np.stack([sequence[:n].mean(0) for sequence, n in zip(other, steps, strict=True)])
    if (worst := np.abs(own[:, -1, 0] - means).max() / np.abs(means).max()) > _TOLERANCE:
        raise UserError(f"the states differ from openai-whisper's by {worst:.1e} of the largest: nothing was timed")


def seconds(run: Callable[[Sequence[np.ndarray]], np.ndarray], clips: Sequence[np.ndarray]) -> list[float]:
    """Of a whole pass over the clips, several times; one before them warms up and compiles."""
    run(clips)
    spent = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run(clips)
        spent.append(time.perf_counter() - begin)
    return spent


def main(options: argparse.Namespace) -> None:
    config = script.load_config("whisper_states").states
    clips = waves(options.clips)
    runs = {
        f"ours, {config.silence_s:g} s of silence": ours(options.weights, config.silence_s, config.batch),
        f"ours, {WHOLE_S:g} s in all": ours(options.weights, WHOLE_S, config.batch),
        "openai-whisper, encoder alone": theirs(options.weights, config.batch),
    }
    check_equal(*(run(clips[:2]) for run in list(runs.values())[1:]), clips[:2])
    spent = {name: seconds(run, clips) for name, run in runs.items()}
    per_corpus = {name: float(np.median(each)) / len(clips) * RAVDESS_CLIPS for name, each in spent.items()}
    rows = [f"| {name} | {value:.0f} s | {RAVDESS_CLIPS / value:.1f} |" for name, value in per_corpus.items()]
    table = "\n".join([f"| {options.weights} | {RAVDESS_CLIPS} clips, one speed | clips/s |", "|---|---|---|", *rows])
    script.write(options.workdir / "benchmark-states.json", {"seconds": spent, "clips": len(clips)}, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="tiny.en", help="an openai-whisper name or its .pt file")
    parser.add_argument("--clips", type=int, default=64, help="clips to time")
    script.run(main, parser)
