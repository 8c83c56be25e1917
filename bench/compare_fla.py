#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times flash-linear-attention on the shapes of bench_cuda and bench_cuda_chunk.

    bench/compare_fla.py LOG...      LOG: what bench_cuda and bench_cuda_chunk printed

Needs PyTorch and flash-linear-attention (fla) on PYTHONPATH. For every decode and chunk line of the
logs that it knows, runs chunk_gated_delta_rule or fused_recurrent_gated_delta_rule with bfloat16
inputs, float32 states and L2-normalised q and k, and prints fla's time over ours. Decoding is timed
as a replayed CUDA graph, as ours is, and, where fla cannot be captured, call by call.
"""
import re
import statistics
import sys

import torch

try:
    from fla.ops.gated_delta_rule import (chunk_gated_delta_rule, fused_recurrent_gated_delta_rule)
except ImportError as error:
    sys.exit(f"skipped: flash-linear-attention cannot be imported ({error})")

DEVICE = "cuda"


def inputs(batch, tokens, key_heads, value_heads, key_dim, value_dim, requires_grad=False):
    """q, k, v, g, beta of [B, T, heads, ...]; q and k with as many heads as v."""
    generator = torch.Generator(DEVICE).manual_seed(1)

    def normal(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, generator=generator, device=DEVICE, dtype=torch.float32).to(dtype)

    q = normal(batch, tokens, key_heads, key_dim)
    k = normal(batch, tokens, key_heads, key_dim)
    if value_heads != key_heads and not supports_grouped():
        q = q.repeat_interleave(value_heads // key_heads, dim=2)
        k = k.repeat_interleave(value_heads // key_heads, dim=2)
    v = normal(batch, tokens, value_heads, value_dim)
    g = -0.1 * torch.rand(batch, tokens, value_heads, generator=generator, device=DEVICE)
    beta = torch.rand(batch, tokens, value_heads, generator=generator, device=DEVICE)
    tensors = dict(q=q, k=k, v=v, g=g, beta=beta)
    if requires_grad:
        for tensor in tensors.values():
            tensor.requires_grad_(True)
    return tensors


_grouped = None


def supports_grouped():
    """Whether this version of fla takes fewer key heads than value heads."""
    global _grouped
    if _grouped is None:
        try:
            _grouped = True
            few = inputs(1, 64, 1, 2, 64, 64)
            out, _ = chunk_gated_delta_rule(**few, use_qk_l2norm_in_kernel=True)
            _grouped = out.shape[2] == 2
        except Exception:  # pylint: disable=broad-except
            _grouped = False
    return _grouped


def median_ms(run, runs=15, warm_up=3):
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
    """One call of a replayed graph of `calls` calls; None if the calls cannot be captured."""
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
        print(f"# not captured: {error}")
        torch.cuda.synchronize()
        return None


def report(name, ours_ms, theirs_ms, how):
    print(f"ratio {theirs_ms / ours_ms:6.2f}   {name}   kla {1e3 * ours_ms:.1f} us, "
          f"fla {1e3 * theirs_ms:.1f} us ({how})", flush=True)


def decode(name, key_dim, value_dim, heads, batch, ours_ms):
    tensors = inputs(batch, 1, heads, heads, key_dim, value_dim)
    state = torch.randn(batch, heads, key_dim, value_dim, device=DEVICE) * 0.3

    def run():
        with torch.no_grad():
            fused_recurrent_gated_delta_rule(**tensors, initial_state=state,
                                             output_final_state=True,
                                             use_qk_l2norm_in_kernel=True)

    run()
    replayed = graph_ms(run)
    if replayed is None:
        report(name, ours_ms, median_ms(run), "fused_recurrent, call by call")
    else:
        report(name, ours_ms, replayed, "fused_recurrent, replayed graph")


def chunk(name, backward, key_dim, value_dim, key_heads, value_heads, batch, tokens, ours_ms):
    tensors = inputs(batch, tokens, key_heads, value_heads, key_dim, value_dim, backward)

    def forward():
        return chunk_gated_delta_rule(**tensors, output_final_state=True,
                                      use_qk_l2norm_in_kernel=True)

    if not backward:
        with torch.no_grad():
            forward()
            report(name, ours_ms, median_ms(forward), "chunk forward")
        return
    out, _ = forward()
    d_out = torch.randn_like(out)

    def run():
        out.backward(d_out, retain_graph=True)

    run()
    report(name, ours_ms, median_ms(run), "chunk backward")


DECODE = re.compile(r"^(DecodeStep/Cuda/bf16/f32state/K(\d+)/V(\d+)/heads:(\d+)/batch:(\d+))"
                    r" +replay +([\d.]+) us")
CHUNK = re.compile(r"^(Chunk(Forward|Backward)/Cuda/bf16/K(\d+)/V(\d+)/heads:(\d+):(\d+)"
                   r"/tokens:(\d+)x(\d+)) +([\d.]+) ms")


def main():
    if not torch.cuda.is_available():
        sys.exit("skipped: no CUDA device")
    known = 0
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as log:
            lines = log.readlines()
        for line in lines:
            match = DECODE.match(line)
            try:
                if match:
                    known += 1
                    decode(match[1], *(int(match[i]) for i in (2, 3, 4, 5)), float(match[6]) / 1e3)
                    continue
                match = CHUNK.match(line)
                if match:
                    known += 1
                    chunk(match[1], match[2] == "Backward", *(int(match[i]) for i in range(3, 9)),
                          float(match[9]))
            except Exception as error:  # pylint: disable=broad-except
                print(f"ratio    n/a   {match[1]}   fla failed: {type(error).__name__}: "
                      f"{str(error).splitlines()[0] if str(error) else ''}", flush=True)
                torch.cuda.empty_cache()
    if known == 0:
        sys.exit("no line of the logs is known; pass what bench_cuda and bench_cuda_chunk printed")


if __name__ == "__main__":
    main()
