"""A service under load: requests per second, latency, lost and wrong answers; beside the same service around PyTorch.

    python -m emoflax.benchmark.serving --bundle=BUNDLE --requests=20000

Starts --mode=serve in a process of its own, and has so many clients send recordings of 3 s as WAV files, each over a
connection that it keeps, as fast as answers come. Every answer is compared with the model's own. Where PyTorch is
installed and has a twin of the model, the same service follows with PyTorch's eager forward pass in the place of the
compiled one: decoding, features, batches and padding are the same. Clients and service share the machine's cores.
Prints a table and writes serving.json into --workdir.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator

import numpy as np
import soundfile

import emoflax
from emoflax.batch import Batch
from emoflax.benchmark import script
from emoflax.errors import UserError
from emoflax.inference.model import Model
from emoflax.inference.serve import command
from emoflax.inference.serve.settings import Settings

SECONDS, RATE_HZ, RECORDINGS, WARM_UP = 3.0, 16_000, 64, 200
_TOLERANCE = 2e-6  # answers are rounded to six digits
_BOUNDARY = "boundary-of-the-benchmark"
_TORCH_TOLERANCE = 1e-4


def main(options: argparse.Namespace) -> None:
    if options.serve_torch:
        command.run(options.bundle, "127.0.0.1", 0, Settings(), around_torch)
        return
    model = emoflax.load(options.bundle)
    recordings = [voice(seed) for seed in range(RECORDINGS)]
    own = [one.probabilities for one in model.predict(recordings, RATE_HZ)]
    bodies = [form(samples) for samples in recordings]
    results = {}
    for who, tolerance in (("ours", _TOLERANCE), ("torch_eager", _TORCH_TOLERANCE)):
        if who == "torch_eager" and not has_twin(model):
            print("the same service around PyTorch is left out: it is not installed, or has no twin of this model")
            continue
        with started(who, options.bundle) as (address, process):
            load(address, bodies, own, WARM_UP, options.clients, tolerance)
            results[who] = load(address, bodies, own, options.requests, options.clients, tolerance, process)
    head = f"{options.requests} requests of {SECONDS:g} s, {options.clients} clients, {options.bundle}"
    script.write(options.workdir / "serving.json", {"options": head, "results": results}, f"{head}\n\n{table(results)}")


def load(
    address: str, bodies: list[bytes], own: list, requests: int, clients: int, tolerance: float,
    process: subprocess.Popen | None = None,
) -> dict:  # fmt: skip
    """Sends so many requests and compares the answers.

    Returns:
      requests_per_s, p50_ms, p95_ms, worst_ms, put_off (answers of status 429, after which the request came again),
      lost (no answer, or another status), wrong, and cpu_ms, the service's time of processor per request.
    """
    taken: list[float] = []
    counts: Counter[str] = Counter()
    cpu_s, begin = (processor_s(process.pid) if process else 0.0), time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        shares = [range(number, requests, clients) for number in range(clients)]
        for times, counted in pool.map(lambda share: client(address, bodies, own, share, tolerance), shares):
            taken += times
            counts += counted
    elapsed = time.perf_counter() - begin
    cpu_s = processor_s(process.pid) - cpu_s if process else 0.0
    p50, p95, worst = (1000 * float(np.quantile(taken, q)) for q in (0.5, 0.95, 1.0))
    return {
        "requests_per_s": requests / elapsed, "p50_ms": p50, "p95_ms": p95, "worst_ms": worst,
        "cpu_ms": 1000 * cpu_s / requests, **{name: counts[name] for name in ("put_off", "lost", "wrong")},
    }  # fmt: skip


def client(address: str, bodies: list[bytes], own: list, share: range, tolerance: float) -> tuple[list, Counter]:
    """One client's requests, one after the other: their times in s, and what went wrong."""
    times, counts = [], Counter()
    connection = http.client.HTTPConnection(address, timeout=120)
    for number in share:
        which, begin = number % len(bodies), time.perf_counter()
        try:
            while (status := post(connection, bodies[which]))[0] == 429:
                counts["put_off"] += 1
                time.sleep(1)
        except (OSError, http.client.HTTPException):
            counts["lost"] += 1
            connection.close()
            continue
        times.append(time.perf_counter() - begin)
        if status[0] != 200:
            counts["lost"] += 1
            continue
        made = json.loads(status[1])["predictions"][0]["probabilities"]
        if max(abs(made[label] - p) for label, p in own[which].items()) > tolerance:
            counts["wrong"] += 1
    connection.close()
    return times, counts


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection.request("POST", "/v1/predict", body, kind)
    answer = connection.getresponse()
    return answer.status, answer.read()


@contextlib.contextmanager
def started(who: str, bundle: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Yields address and process of a service, and ends it."""
    ours = [sys.executable, "-m", "emoflax", "--mode=serve", f"--bundle={bundle}", "--port=0"]
    torch = [sys.executable, "-m", __spec__.name, f"--bundle={bundle}", "--serve-torch"]
    with subprocess.Popen(ours if who == "ours" else torch, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("serving "):
                raise UserError(f"the service of {bundle} did not start; its message is above")
            yield urllib.parse.urlsplit(line.split()[-1]).netloc, process
        finally:
            process.terminate()


def has_twin(model: Model) -> bool:
    try:
        from emoflax.benchmark import torch_models
    except ImportError:
        return False
    try:
        for member in model.members:
            torch_models.build(member.config, 2, len(model.labels))
    except UserError:
        return False
    return not any(member.config.model.functionals for member in model.members)


def around_torch(model: Model) -> Model:
    """The model with PyTorch's eager forward pass in the place of its networks' compiled programs."""
    import torch

    from emoflax.benchmark import torch_models

    for member in model.members:
        vocabulary = len(member.trained.description["vocabulary"])
        theirs = torch_models.build(member.config, max(2, vocabulary), len(model.labels)).eval()
        torch_models.copy_weights(member.trained.module(), theirs)

        def log_p(weights: object, batch: Batch, theirs: torch.nn.Module = theirs) -> np.ndarray:
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(array) for name, array in batch.arrays().items()}
                return theirs(Batch(**tensors)).log_softmax(-1).numpy()

        member._score._programs = log_p, None
    return model


def voice(seed: int) -> np.ndarray:
    """int16 [samples]: harmonics that come and go, in a little noise."""
    rng, t = np.random.default_rng(seed), np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    f0 = rng.uniform(90, 260) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * t))
    tones = sum(np.sin(2 * np.pi * k * np.cumsum(f0) / RATE_HZ) / k for k in range(1, 12))
    wave = 0.1 * tones * np.clip(np.sin(2 * np.pi * rng.uniform(1, 4) * t), 0, None) + 1e-3 * rng.standard_normal(
        len(t)
    )
    return np.round(32_767 * np.clip(wave, -1, 1)).astype(np.int16)


def form(samples: np.ndarray) -> bytes:
    """The multipart body with the samples as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + file.getvalue() + f"\r\n--{_BOUNDARY}--\r\n".encode()


def processor_s(pid: int) -> float:
    """Processor time that a process and its children have taken. Linux alone."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for one in (pid, *children):
        fields = pathlib.Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def table(results: dict) -> str:
    names = ("requests_per_s", "p50_ms", "p95_ms", "worst_ms", "cpu_ms", "put_off", "lost", "wrong")
    rows = [f"| {who} | " + " | ".join(f"{one[name]:.4g}" for name in names) + " |" for who, one in results.items()]
    return "\n".join([f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|", *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, help="what is served")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--serve-torch", action="store_true", help="be the service around PyTorch")
    script.run(main, parser)
