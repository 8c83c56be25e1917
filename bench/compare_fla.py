#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times flash-linear-attention on the shapes of the CUDA benchmarks, and compares accuracy.

    bench/compare_fla.py LOG...            LOG: what bench_cuda, bench_cuda_chunk and
                                           bench_cuda_layer printed; prints fla's time over ours
    bench/compare_fla.py --warm            compiles fla's kernels ahead, several processes at once
    bench/compare_fla.py --accuracy PROG   PROG: bench_cuda_accuracy; errors against float64

Needs PyTorch and flash-linear-attention (fla). Inputs are bfloat16, gates and states float32, q and
k L2-normalised by the kernels. Each item has a time limit of its own: one that fails or hangs
prints "not run" with the reason, and the rest go on. fla's backward refuses some versions of Triton
on Hopper, where they compile it wrongly, unless TileLang is installed, which it then uses; nothing
of that is overridden here. FlashQLA, where it is installed, replaces fla's kernels for 128/128: it
is timed as a line of its own.
"""
import argparse
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time

CHUNK_SHAPES = (  # key dim, value dim, key heads, value heads, batch, tokens
    (128, 128, 16, 64, 1, 32768), (128, 128, 16, 32, 1, 32768), (128, 128, 2, 8, 1, 32768),
    (128, 128, 16, 16, 8, 4096), (96, 192, 12, 12, 1, 32768), (96, 192, 12, 12, 8, 4096))
BACKWARD_SHAPES = tuple(CHUNK_SHAPES[i] for i in (1, 3, 4, 5))


def decode_item(key_dim, value_dim, heads, batch):
    name = f"DecodeStep/Cuda/bf16/f32state/K{key_dim}/V{value_dim}/heads:{heads}/batch:{batch}"
    return dict(kind="decode", name=name, args=(key_dim, value_dim, heads, batch))


def chunk_item(shape, backward, library="fla"):
    key_dim, value_dim, key_heads, value_heads, batch, tokens = shape
    name = (f"Chunk{'Backward' if backward else 'Forward'}/Cuda/bf16/K{key_dim}/V{value_dim}"
            f"/heads:{key_heads}:{value_heads}/tokens:{batch}x{tokens}")
    return dict(kind="chunk", name=name, args=(*shape, backward), library=library)


def all_items(flash_qla):
    """In order of worth: where time is short, the last are left out."""
    items = [decode_item(128, 128, 16, 256), decode_item(128, 128, 16, 1),
             decode_item(96, 192, 12, 256), decode_item(96, 192, 12, 1),
             dict(kind="layer", name="KlaLayer::Step/Cuda/bf16/D1536/K96/V192/heads:12/batch:1",
                  args=(1536, 96, 192, 12))]
    items += [chunk_item(shape, False) for shape in CHUNK_SHAPES[4:]]
    items += [chunk_item(shape, True) for shape in BACKWARD_SHAPES]
    items += [chunk_item(shape, False) for shape in CHUNK_SHAPES[:4]]
    if flash_qla:
        items += [chunk_item(CHUNK_SHAPES[i], False, "FlashQLA") for i in (0, 2)]
        items += [chunk_item(CHUNK_SHAPES[1], True, "FlashQLA")]
    return items


# ---- In a worker process: PyTorch and fla ------------------------------------------------------

DEVICE = "cuda"


def inputs(batch, tokens, key_heads, value_heads, key_dim, value_dim, requires_grad=False):
    """q, k, v, g, beta of [B, T, heads, ...]."""
    import torch
    generator = torch.Generator(DEVICE).manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE).to(torch.bfloat16)

    tensors = dict(q=normal(batch, tokens, key_heads, key_dim),
                   k=normal(batch, tokens, key_heads, key_dim),
                   v=normal(batch, tokens, value_heads, value_dim),
                   g=-0.1 * torch.rand(batch, tokens, value_heads, generator=generator,
                                       device=DEVICE),
                   beta=torch.rand(batch, tokens, value_heads, generator=generator, device=DEVICE))
    if requires_grad:
        for tensor in tensors.values():
            tensor.requires_grad_(True)
    return tensors


def median_ms(run, runs=15, warm_up=3):
    import torch
    times = []
    for i in range(-warm_up, runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if i >= 0:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def graph_ms(run, calls=20):
    """One call of a replayed graph of `calls` calls, or why the calls cannot be captured."""
    import torch
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        return median_ms(graph.replay) / calls
    except Exception as error:  # pylint: disable=broad-except
        torch.cuda.synchronize()
        return f"not captured: {first_line(error)}"


def back_to_back_ms(run, calls=20):
    """One of `calls` calls queued one after the other: what launching costs is in it."""
    return median_ms(lambda: [run() for _ in range(calls)]) / calls


def first_line(error):
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}"


def decode(key_dim, value_dim, heads, batch, warm):
    """fla's faster state layout, as a replayed graph and queued call by call."""
    import torch
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule
    tensors = inputs(batch, 1, heads, heads, key_dim, value_dim)
    times = {}
    for values_first in (False, True):
        shape = (value_dim, key_dim) if values_first else (key_dim, value_dim)
        state = torch.randn(batch, heads, *shape, device=DEVICE) * 0.3

        def run():
            with torch.no_grad():
                fused_recurrent_gated_delta_rule(  # pylint: disable=cell-var-from-loop
                    **tensors, initial_state=state, output_final_state=True,
                    use_qk_l2norm_in_kernel=True, state_v_first=values_first)

        run()
        if warm:
            continue
        for how, time_of in (("replay", graph_ms), ("eager", back_to_back_ms)):
            ms = time_of(run)
            if how not in times or (not isinstance(ms, str) and ms < times[how]):
                times[how] = ms
    return times


def chunk(key_dim, value_dim, key_heads, value_heads, batch, tokens, backward, warm):
    import torch
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    tensors = inputs(batch, tokens, key_heads, value_heads, key_dim, value_dim, backward)

    def forward():
        return chunk_gated_delta_rule(**tensors, output_final_state=True,
                                      use_qk_l2norm_in_kernel=True)

    if not backward:
        with torch.no_grad():
            forward()
            torch.cuda.synchronize()
            return {} if warm else {"chunk": median_ms(forward)}
    out, _ = forward()
    d_out = torch.randn_like(out)

    def run():
        out.backward(d_out, retain_graph=True)

    run()
    torch.cuda.synchronize()
    return {} if warm else {"chunk": median_ms(run)}


def layer(model_dim, key_dim, value_dim, heads, warm):
    """One token through fla's GatedDeltaNet with its cache, batch 1."""
    import torch
    from fla.layers import GatedDeltaNet
    from fla.models.utils import Cache
    torch.manual_seed(1)
    net = GatedDeltaNet(hidden_size=model_dim, expand_v=value_dim / key_dim, head_dim=key_dim,
                        num_heads=heads, layer_idx=0).to(DEVICE, torch.bfloat16).eval()
    cache = Cache()
    x = torch.randn(1, 1, model_dim, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():
        net(torch.randn(1, 64, model_dim, device=DEVICE, dtype=torch.bfloat16),
            past_key_values=cache, use_cache=True)

        def run():
            net(x, past_key_values=cache, use_cache=True)

        run()
        if warm:
            return {}
        eager = back_to_back_ms(run)
        return {"eager": eager, "replay": graph_ms(run)}


def compile_only():
    """Lets Triton's autotuner call each configuration once, without timing it."""
    from triton.runtime.autotuner import Autotuner

    def call_once(call, quantiles=None, **_):
        call()
        return [0.0] * len(quantiles) if quantiles else 0.0

    Autotuner.do_bench = property(lambda _: call_once, lambda *_: None)


def worker(warm):
    """Reads items as lines of JSON, answers each with one."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error
    if warm:
        compile_only()
    for line in sys.stdin:
        item = json.loads(line)
        try:
            run = dict(decode=decode, chunk=chunk, layer=layer)[item["kind"]]
            answer = dict(times=run(*item["args"], warm))
        except Exception as error:  # pylint: disable=broad-except
            answer = dict(failed=first_line(error))
        answers.write(json.dumps(answer) + "\n")
        try:
            import torch
            torch.cuda.empty_cache()
        except Exception:  # pylint: disable=broad-except
            pass


# ---- In the parent: items, their time limits, and what is printed ------------------------------

class Worker:
    """A process that runs items of one library one after the other."""

    def __init__(self, library, warm, log):
        environment = dict(os.environ, FLA_FLASH_QLA="1" if library == "FlashQLA" else "0")
        if warm:
            environment["FLA_CACHE_RESULTS"] = "0"  # compiled code is kept, no choice among it
        command = [sys.executable, os.path.abspath(__file__), "--worker"]
        self.process = subprocess.Popen(command + (["--warm"] if warm else []), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                        env=environment)
        self.answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.answers.put(json.loads(line))
        self.answers.put(None)

    def run(self, item, limit):
        """The answer; afterwards `usable` says whether another item may follow."""
        try:
            self.process.stdin.write(json.dumps(item) + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=max(limit, 1))
        except queue.Empty:
            answer = dict(failed=f"no result within {limit:.0f} s")
            self.stop()
        except OSError:
            answer = None
        if answer is None:
            answer = dict(failed=f"the process ended with status {self.process.wait()}")
        return answer

    def usable(self):
        return self.process.poll() is None

    def stop(self):
        self.process.kill()
        self.process.wait()


def measured(paths):
    """{name: {how: ms}} of the benchmarks' logs."""
    line = re.compile(r"^(\S+) +(?:(replay|eager|cold) +)?([\d.]+) (us|ms)\b")
    ours = {}
    for path in paths:
        with open(path, encoding="utf-8") as log:
            for match in map(line.match, log):
                if match:
                    ms = float(match[3]) * (1e-3 if match[4] == "us" else 1)
                    ours.setdefault(match[1], {})[match[2] or "chunk"] = ms
    return ours


def compare(paths, item_limit, limit):
    ours = measured(paths)
    workers, began = {}, time.monotonic()
    with open("/dev/null" if not paths else paths[0] + ".fla", "w", encoding="utf-8") as log:
        for item in all_items(importable("flash_qla")):
            library = item.get("library", "fla")
            label = f"{item['name']}   {library}"
            left = limit - (time.monotonic() - began)
            if item["name"] not in ours:
                print(f"ratio    n/a   {label} not run: our own time is not in the logs", flush=True)
                continue
            if left < 5:
                print(f"ratio    n/a   {label} not run: the time for all items is up", flush=True)
                continue
            if library not in workers or not workers[library].usable():
                workers[library] = Worker(library, False, log)
            answer = workers[library].run(item, min(item_limit, left))
            if "failed" in answer:
                print(f"ratio    n/a   {label} not run: {answer['failed']}", flush=True)
                continue
            for how, theirs in answer["times"].items():
                own = ours[item["name"]].get(how)
                if isinstance(theirs, str):
                    print(f"ratio    n/a   {label} {how} {theirs}", flush=True)
                elif own is None:
                    print(f"ratio    n/a   {label} {1e3 * theirs:.1f} us, {how}", flush=True)
                else:
                    print(f"ratio {theirs / own:6.2f}   {label} {1e3 * theirs:.1f} us, "
                          f"kla {1e3 * own:.1f} us, {how}", flush=True)
    for process in workers.values():
        process.stop()


def warm_up(processes, limit):
    """Compiling takes most of the time: the items are dealt out to several processes."""
    items = all_items(importable("flash_qla"))
    began = time.monotonic()

    waiting = queue.Queue()
    for item in sorted(items, key=lambda item: "Backward" not in item["name"]):  # the longest first
        waiting.put(item)

    def deal():
        own = {}
        while limit - (time.monotonic() - began) > 1:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            library = item.get("library", "fla")
            if library not in own or not own[library].usable():
                own[library] = Worker(library, True, subprocess.DEVNULL)
            answer = own[library].run(item, limit - (time.monotonic() - began))
            if "failed" in answer:
                print(f"warm: {item['name']} {library}: {answer['failed']}", flush=True)
        for process in own.values():
            process.stop()

    threads = [threading.Thread(target=deal) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"warm: {time.monotonic() - began:.0f} s", flush=True)


# ---- Accuracy -----------------------------------------------------------------------------------

def recurrence(q, k, v, g, beta, step_size):
    """o and the last state in the type of the arguments, token by token; gradients flow."""
    import torch

    def normalised(x):
        return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)

    scale = q.shape[-1] ** -0.5
    q = normalised(q)
    if step_size == "Gdn":
        k = normalised(k)
    else:
        beta = beta / ((k * k).sum(-1) + 1e-6)
    batch, tokens, heads, key_dim = k.shape
    state = torch.zeros(batch, heads, key_dim, v.shape[-1], dtype=q.dtype, device=q.device)
    out = []
    for t in range(tokens):
        state = state * torch.exp(g[:, t])[..., None, None]
        rest = v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t] * beta[:, t, :, None], rest)
        out.append(scale * torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1), state


def accuracy(program, folder):
    """Relative RMS errors of o, S and the gradients, of both libraries on the same inputs."""
    os.environ["FLA_FLASH_QLA"] = "0"
    import numpy
    import torch
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    names = ("o", "S", "dq", "dk", "dv", "dg", "dbeta")
    print("relative RMS error against the recurrence in float64, same bfloat16 inputs")
    print(f"{'':34}" + "".join(f"{name:>10}" for name in names))
    os.makedirs(folder, exist_ok=True)
    for key_dim, value_dim, heads in ((128, 128, 16), (96, 192, 12)):
        batch, tokens = 1, 1024
        tensors = inputs(batch, tokens, heads, heads, key_dim, value_dim, True)
        generator = torch.Generator(DEVICE).manual_seed(2)
        d_out = torch.randn(batch, tokens, heads, value_dim, generator=generator,
                            device=DEVICE).to(torch.bfloat16)
        for name, tensor in (*tensors.items(), ("d_o", d_out)):
            tensor = tensor.detach()
            if tensor.dtype == torch.bfloat16:
                tensor = tensor.view(torch.int16)
            tensor.cpu().numpy().tofile(f"{folder}/{name}")

        def gradients(out, state):
            found = torch.autograd.grad(out, list(arguments.values()), d_out.to(out.dtype))
            return dict(zip(names, [x.detach().double() for x in (out, state, *found)]))

        def print_errors(label, actual, expected):
            errors = [(actual[n] - expected[n]).norm() / expected[n].norm() for n in names]
            print(f"{label:34}" + "".join(f"{float(e):10.1e}" for e in errors), flush=True)

        for step_size in ("Gdn", "Kla"):
            arguments = {name: tensor.detach().double().requires_grad_(True)
                         for name, tensor in tensors.items()}
            expected = gradients(*recurrence(**arguments, step_size=step_size))
            shape = f"K{key_dim}/V{value_dim} {step_size}"
            try:
                subprocess.run([program, folder, str(key_dim), step_size, str(batch), str(tokens),
                                str(heads)], check=True, timeout=60)
                actual = {}
                for name in names:
                    kind = numpy.float32 if name in ("S", "dg", "dbeta") else numpy.int16
                    raw = torch.from_numpy(numpy.fromfile(f"{folder}/{name}", kind)).to(DEVICE)
                    raw = raw.view(torch.bfloat16) if kind is numpy.int16 else raw
                    actual[name] = raw.double().view(expected[name].shape)
                print_errors(f"kla {shape}", actual, expected)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"kla {shape}: not run: {first_line(error)}", flush=True)
            if step_size != "Gdn":
                continue
            try:
                arguments = tensors
                out, state = chunk_gated_delta_rule(**tensors, output_final_state=True,
                                                    use_qk_l2norm_in_kernel=True)
                print_errors(f"fla {shape}", gradients(out, state), expected)
            except Exception as error:  # pylint: disable=broad-except
                print(f"fla {shape}: not run: {first_line(error)}", flush=True)


def importable(module):
    import importlib.util
    return importlib.util.find_spec(module) is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="*", metavar="LOG")
    parser.add_argument("--warm", action="store_true", help="only compile fla's kernels")
    parser.add_argument("--processes", type=int, default=12, help="of --warm")
    parser.add_argument("--accuracy", metavar="PROGRAM", help="bench_cuda_accuracy")
    parser.add_argument("--folder", default="accuracy", help="where --accuracy leaves its arrays")
    parser.add_argument("--item-limit", type=float, default=60, help="seconds for an item")
    parser.add_argument("--limit", type=float, default=240, help="seconds for all items")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.warm)
    for module in ("torch", "fla"):
        if not importable(module):
            sys.exit(f"skipped: the Python module {module} is not installed")
    if options.accuracy:
        return accuracy(options.accuracy, options.folder)
    if options.warm:
        return warm_up(options.processes, options.limit)
    if not options.logs:
        parser.error("pass what bench_cuda, bench_cuda_chunk and bench_cuda_layer printed")
    return compare(options.logs, options.item_limit, options.limit)


if __name__ == "__main__":
    main()
