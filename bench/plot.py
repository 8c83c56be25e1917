#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of README.md from the JSON of the benchmarks and the CSV of bench/quality.

  bench_decode_step --benchmark_repetitions=9 --benchmark_out=decode.json --benchmark_out_format=json
  bench_chunk       --benchmark_repetitions=5 --benchmark_out=chunk.json  --benchmark_out_format=json
  bench/plot.py decode.json chunk.json --out bench/figures
  bench/plot.py bench/quality/results.csv --out bench/figures --table

Benchmarks: medians over the repetitions; the band is their smallest and largest value. Quality: means
over the seeds; the bars reach to the smallest and largest, since a seed that has not learnt its task
is far from the others. Figures whose numbers are not in the files are left out, and said so.
"""

import argparse
import collections
import csv
import json
import math
import pathlib
import re
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402


def load(paths):
    """name -> list of runs; and the context lines that belong under a figure."""
    runs = collections.defaultdict(list)
    contexts = []
    for path in paths:
        data = json.loads(pathlib.Path(path).read_text())
        context = data["context"]
        contexts.append(f"{context.get('kla_backend', '?')}, {context.get('compiler', '?')}")
        for run in data["benchmarks"]:
            if run.get("run_type") == "iteration":
                runs[run["run_name"]].append(run)
    return runs, sorted(set(contexts))


def series(runs, pattern, value):
    """[(x, low, median, high)] over the benchmarks whose name matches, x being group 1."""
    points = []
    for name, found in runs.items():
        match = re.fullmatch(pattern, name)
        if match:
            values = sorted(value(run) for run in found)
            points.append((int(match[1]), values[0], statistics.median(values), values[-1]))
    return sorted(points)


def draw(axes, points, label, **style):
    x, low, median, high = zip(*points)
    (line,) = axes.plot(x, median, marker="o", markersize=3, label=label, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2)


def layer_tokens(run, heads=16):
    return 1e9 / (run["ns_per_head_token"] * heads)


def decode_figure(runs, axes):
    state = r"Simd/f32/K128/V128/heads:(16)"
    flat = {
        "kla, KLA step": series(runs, "DecodeStep/" + state, layer_tokens),
        "kla, Gated DeltaNet step": series(
            runs, r"Baseline/GatedDelta/f32/K128/V128/heads:(16)", layer_tokens),
    }
    curves = {
        "softmax attention, KV cache": series(
            runs, r"Baseline/SoftmaxKv/f32/K128/V128/context:(\d+)", layer_tokens),
        "re-computation of the prefix": series(
            runs, r"Baseline/Recompute/f32/K128/V128/context:(\d+)", layer_tokens),
    }
    if not all(flat.values()) or not all(curves.values()):
        return False
    contexts = [point[0] for point in curves["softmax attention, KV cache"]]
    for (label, points), style in zip(flat.items(), ("-", "--")):
        draw(axes, [(x, *points[0][1:]) for x in contexts], label, linestyle=style)
    for label, points in curves.items():
        draw(axes, points, label)
    axes.set(xscale="log", yscale="log", xlabel="context [tokens]", ylabel="tokens/s",
             title="Decoding, one layer of 16 heads, K = V = 128, float32, one thread")
    axes.set_xticks(contexts, [f"{x // 1024}K" for x in contexts])
    return True


def prefill_figure(runs, axes):
    drawn = False
    for kind, label in (("f32", "float32"), ("bf16", "bfloat16")):
        points = series(runs, rf"ChunkForward/Simd/{kind}/K128/V128/heads:16/tokens:(\d+)",
                        layer_tokens)
        if points:
            draw(axes, points, label)
            drawn = True
    axes.set(xscale="log", xlabel="length [tokens]", ylabel="tokens/s",
             title="Prefill, one layer of 16 heads, K = V = 128, one thread")
    axes.set_ylim(bottom=0)
    return drawn


def roofline_figure(runs, axes):
    """Rate against intensity: 6KV flops a token, over the bytes of state read and written."""
    def median(name, counter):
        return statistics.median(run[counter] for run in runs[name]) if name in runs else None

    peak = median("Ceiling/FmaPeak/f32/K128/V128/heads:16", "FLOP/s")
    bandwidth = median("Ceiling/InPlaceScale/f32/heads:2048", "bytes/s")
    if peak is None or bandwidth is None:
        return False
    intensity = [2.0**i for i in range(-2, 9)]
    axes.plot(intensity, [min(peak, bandwidth * x) / 1e9 for x in intensity], color="black",
              label="multiply-add peak, memory bandwidth (in-place scale)")
    product = median("Ceiling/ProductPeak/f32/K128/V128/heads:16", "FLOP/s")
    if product is not None:
        axes.axhline(product / 1e9, color="gray", linestyle="--", label="products of matrices in L1")
    points = [(f"DecodeStep/Simd/f32/K128/V128/heads:2048{tail}", f"decode, {tokens} token(s)",
               6 * tokens / 8) for tokens, tail in ((1, ""), (4, "/tokens:4"), (16, "/tokens:16"))]
    points += [("DecodeStep/Simd/bf16state/K128/V128/heads:2048", "decode, bfloat16 state", 6 / 4)]
    points += [("ChunkForward/Simd/f32/K128/V128/heads:16/tokens:4096", "prefill", 6 * 128 / 16)]
    for name, label, x in points:
        rate = median(name, "FLOP/s")
        if rate is not None:
            axes.plot([x], [rate / 1e9], "o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="useful flops per byte of memory traffic",
             ylabel="GFLOP/s, counted as 6KV a token", title="Roofline, one thread, float32")
    return True


def load_quality(paths):
    """(task, mixer) -> kind -> x -> [value a seed]; x is the length, or the step of a curve."""
    rows = [row for path in paths
            for row in csv.DictReader(pathlib.Path(path).read_text().splitlines())]
    usual = {}  # task -> its number of steps; runs of another number are a task of their own
    for row in rows:
        usual[row["task"]] = min(int(row["steps"]), usual.get(row["task"], int(row["steps"])))
    runs = collections.defaultdict(lambda: collections.defaultdict(
        lambda: collections.defaultdict(list)))
    for row in rows:
        task, steps = row["task"], int(row["steps"])
        name = task if steps == usual[task] else f"{task}_{steps}_steps"
        x = int(row["step" if row["kind"] == "curve" else "length"])
        value = math.exp(float(row["nats"])) if task == "text" else 100 * float(row["accuracy"])
        runs[name, row["mixer"]][row["kind"]][x].append(value)
    return runs


MIXERS = ("kla", "gdn", "relaxed-kaczmarz", "kaczmarz", "longhorn", "plain-delta", "attention")


def quality_figure(runs, task, kind, axes):
    """Mean, smallest and largest value over the seeds, one line a mixer."""
    drawn = False
    for number, mixer in enumerate(MIXERS):
        points = sorted(runs[task, mixer][kind].items()) if (task, mixer) in runs else []
        if not points:
            continue
        x = [point[0] for point in points]
        mean = [statistics.fmean(values) for _, values in points]
        spread = [[average - min(values) for average, (_, values) in zip(mean, points)],
                  [max(values) - average for average, (_, values) in zip(mean, points)]]
        seeds = len(points[0][1])
        apart = [1.02 ** (number - 3) * value for value in x] if kind == "test" else x
        axes.errorbar(apart, mean, yerr=spread, capsize=2, marker="o", markersize=3,
                      color=f"C{number}", label=f"{mixer} ({seeds} seed{'s'[:seeds > 1]})")
        drawn = True
        if kind == "test":
            axes.set(xscale="log")
            axes.set_xticks(x, [f"{length // 1024}K" if length >= 1024 else str(length)
                                for length in x])
            axes.minorticks_off()
    value = "perplexity a byte" if task == "text" else "accuracy [%]"
    length = "context [bytes]" if task == "text" else "length [tokens]"
    when = "while training" if kind == "curve" else "held out"
    axes.set(xlabel="training step" if kind == "curve" else length, ylabel=value,
             title=f"{task.replace('_', ' ')}: {when}")
    if task == "text" and kind == "curve":
        axes.set_ylim(top=12)  # the first steps are off the scale
    return drawn


@plt.rc_context({"svg.fonttype": "none"})  # text as text: a third smaller
def draw_quality(runs, out):
    for task in sorted({task for task, _ in runs}):
        canvas, pair = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
        for axes, kind in zip(pair, ("test", "curve")):
            quality_figure(runs, task, kind, axes)
            axes.grid(alpha=0.3)
        canvas.legend(*pair[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        save(canvas, out / f"quality_{task}.svg")


def print_table(runs):
    """The held-out results as Markdown: mean +- standard deviation (number of seeds)."""
    for task in sorted({task for task, _ in runs}):
        lengths = sorted({x for (t, _), kinds in runs.items() if t == task for x in kinds["test"]})
        print(f"| {task} | " + " | ".join(map(str, lengths)) + " | seeds |")
        print("|---" * (len(lengths) + 2) + "|")
        for mixer in MIXERS:
            if (task, mixer) not in runs:
                continue
            tests = runs[task, mixer]["test"]
            digits = 3 if task == "text" else 1
            cells = [f"{statistics.fmean(tests[x]):.{digits}f}"
                     + (f" ± {statistics.stdev(tests[x]):.{digits}f}" if len(tests[x]) > 1 else "")
                     if x in tests else "" for x in lengths]
            seeds = max(map(len, tests.values()))
            print(f"| {mixer} | " + " | ".join(cells) + f" | {seeds} |")
        print()


def save(canvas, path):
    canvas.savefig(path, metadata={"Date": None})
    print(path)
    plt.close(canvas)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="JSON of the benchmarks, or CSV of bench/quality")
    parser.add_argument("--out", default="bench/figures", help="folder for the SVG files")
    parser.add_argument("--table", action="store_true", help="print the quality results as Markdown")
    arguments = parser.parse_args()
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "kla"  # the same file from the same numbers
    tables = [path for path in arguments.files if path.endswith(".csv")]
    if tables:
        runs = load_quality(tables)
        draw_quality(runs, out)
        if arguments.table:
            print_table(runs)
    benchmarks = [path for path in arguments.files if path not in tables]
    if not benchmarks:
        return
    runs, contexts = load(benchmarks)
    if not runs:
        sys.exit("no single runs in these files: leave out --benchmark_report_aggregates_only")
    for name, figure in (("decode", decode_figure), ("prefill", prefill_figure),
                         ("roofline", roofline_figure)):
        canvas, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        if figure(runs, axes):
            axes.legend(fontsize=8)
            axes.grid(alpha=0.3)
            canvas.supxlabel("; ".join(contexts), fontsize=7)
            save(canvas, out / f"{name}.svg")
        else:
            print(f"{name}: its benchmarks are not in these files", file=sys.stderr)
            plt.close(canvas)


if __name__ == "__main__":
    main()
