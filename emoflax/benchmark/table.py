"""The benchmark's numbers as a table of plain text."""

NAMES = {
    "ours_epoch": "ours, epoch in one program",
    "ours_step": "ours, step by step",
    "ours": "ours, compiled model",
    "ours_api": "ours, as --mode=predict",
    "torch_eager": "PyTorch eager",
    "torch_channels_last": "PyTorch channels_last",
    "torch_compile": "torch.compile",
    "torch_cuda_graphs": "torch.compile, CUDA graphs",
}

LARGE_BATCH = 64  # clips


def text(results: dict) -> str:
    """The results of `run.run`, in lines."""
    machine, batch = results["machine"], results["batch"]
    shapes = ", ".join(f"{name} {'x'.join(map(str, batch[name]))}" for name in ("logmel", "tokens") if name in batch)
    lines = [
        f"{results['config']} on {machine['device']}, {machine['threads']} threads, "
        f"jax {machine['jax']}, torch {machine['torch']}, load {machine['load_average']:.1f}",
        f"batch of {batch['size']} in {batch['dtype']}, {shapes}; largest relative error "
        f"{max(results['relative_error'].values()):.0e}; ratio: PyTorch's median / ours, above 1 we are faster",
    ]
    if results["notice"]:
        lines.append(f"note: {results['notice']}")
    lines += ["", *_train_step(results)]
    titles = {"one_clip": "one clip", "batch": f"{batch['size']} clips", "large_batch": f"{LARGE_BATCH} clips"}
    for name, title in ((name, f"prediction of {what}") for name, what in titles.items()):
        lines += ["", *_prediction(title, results["prediction"][name])]
    return "\n".join([*lines, "", *_rest(results)])


def _train_step(results: dict) -> list[str]:
    step = results["train_step"]
    lines = [f"{'train step':28} {'ms':>8} {'quartiles':>17} {'ratio':>6} {'clips/s':>8} {'GFLOP/s':>8} {'of peak':>8} "
             f"{'compile s':>9}"]  # fmt: skip
    for name in NAMES:
        if name in step:
            t = step[name]
            lines.append(
                f"{_time(name, t)} {_ratio(step['ratio_to_torch'], name)} {t['clips_per_s']:8.0f} "
                f"{t['gflop_per_s']:8.1f} {t['peak_share']:8.0%} {step['compile_s'][name]:9.1f}"
            )
    lines += [f"{NAMES[f'torch_{mode}']:28} skipped: {reason}" for mode, reason in step["skipped"].items()]
    return lines


def _prediction(title: str, times: dict) -> list[str]:
    rows = [
        f"{_time(name, times[name])} {_ratio(times['ratio_to_torch'], name)} {times[name]['clips_per_s']:8.0f}"
        for name in NAMES
        if name in times
    ]
    return [f"{title:28} {'ms':>8} {'quartiles':>17} {'ratio':>6} {'clips/s':>8}", *rows]


def _rest(results: dict) -> list[str]:
    memory, checkpoint = results["peak_memory_mib"], results["checkpoint"]
    lines = [
        f"matrix product's peak: {results['matmul_peak_gflop_per_s']:.0f} GFLOP/s; "
        f"one clip trained: {results['gflop_per_clip']:.3g} GFLOP (convolutions and products)",
        f"peak memory of the whole process, MiB: {memory['after_our_steps']:.0f} after our steps, "
        f"{memory['after_torch_steps']:.0f} after PyTorch's, {memory['end']:.0f} at the end",
        f"checkpoint: saved in {checkpoint['save']['median_ms']:.0f} ms, "
        f"restored in {checkpoint['restore']['median_ms']:.0f} ms",
    ]
    if precompute := results.get("precompute"):
        lines.append(
            f"precompute of {precompute['clips']} clips, clips/s, start of the processes included: "
            f"ours {precompute['ours_clips_per_s']:.0f}, "
            f"librosa in a loop {precompute['librosa_loop_clips_per_s']:.0f}, "
            f"librosa in {precompute['workers']} processes {precompute['librosa_pool_clips_per_s']:.0f}"
        )
    return lines


def _time(name: str, t: dict) -> str:
    return f"{NAMES[name]:28} {t['median_ms']:8.2f} {t['q1_ms']:8.2f}-{t['q3_ms']:8.2f}"


def _ratio(ratios: dict, name: str) -> str:
    ratio = ratios.get(name.removeprefix("torch_"))
    return f"{ratio:6.2f}" if ratio else " " * 6
