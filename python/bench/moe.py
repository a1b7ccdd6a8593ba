"""mgt.MoE beside a loop over experts in PyTorch: forward and backward, milliseconds, by turns;
the median of all turns and the best one, which says more on a machine that others use too.

    python python/bench/moe.py [--repeats 30]
"""

import argparse
import statistics
import time

import moegrad as mg
import moegrad.torch as mgt
import numpy as np
import torch

SIZES = [(64, 32, 64, 4, 1), (256, 64, 256, 8, 2), (1024, 64, 128, 8, 2), (4096, 256, 512, 16, 2)]


def loop(moe, x, k):
    """relu experts of the k largest of softmax(x W + b), expert by expert."""
    e = moe.experts
    weights, selected = (x @ moe.router.weight + moe.router.bias).softmax(-1).topk(k)
    y = torch.zeros(len(x), e.w2.shape[2])
    for i in range(len(e.w1)):
        token, place = torch.where(selected == i)
        h = torch.relu(torch.addmm(e.b1[i], x[token], e.w1[i]))
        y = y.index_add(0, token, torch.addmm(e.b2[i], h, e.w2[i]) * weights[token, place, None])
    return y


def step(moe, f, x, dy):
    moe.zero_grad()
    x.grad = None
    f(x).backward(dy)


def numpy_step(layer, w, x, dy):
    layer(x, w).backward(dy)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repeats", type=int, default=30)
    repeats = arguments.parse_args().repeats
    print(f"PyTorch {torch.__version__}, {mg.processors()} processors; float32, ms: median (best)")
    print(f"{'N-D-H-E-k':>18} {'threads':>7} {'MoE':>18} {'loop':>18} {'mg.Layer':>18} loop/MoE")
    for n, d, h, e, k in SIZES:
        layer = mg.Layer(d, h, e, k)
        moe = mgt.MoE(layer, seed=1)
        w = {name: value.numpy() for name, value in moe.state_dict().items()}
        x = torch.randn(n, d, requires_grad=True)
        dy = torch.randn(n, d)
        torch.testing.assert_close(moe(x), loop(moe, x, k), rtol=1e-4, atol=1e-5)
        arrays = x.detach().numpy(), dy.numpy()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            mg.threads(threads)
            rivals = {
                "MoE": lambda: step(moe, moe, x, dy),
                "loop": lambda: step(moe, lambda x: loop(moe, x, k), x, dy),
                "Layer": lambda: numpy_step(layer, w, *arrays),
            }
            times = {name: [] for name in rivals}
            start = time.perf_counter()
            rivals["loop"]()
            passes = max(1, int(2e-3 / (time.perf_counter() - start)))
            for turn in range(repeats + 2):
                for name, run in rivals.items():
                    start = time.perf_counter()
                    for _ in range(passes):
                        run()
                    if turn >= 2:
                        times[name].append((time.perf_counter() - start) / passes * 1e3)
            shown = [f"{statistics.median(t):9.3f} ({min(t):.3f})" for t in times.values()]
            ratios = [f(times["loop"]) / f(times["MoE"]) for f in (statistics.median, min)]
            print(
                f"{'-'.join(map(str, (n, d, h, e, k))):>18} {threads:>7} "
                f"{' '.join(f'{text:>18}' for text in shown)} {ratios[0]:.2f} ({ratios[1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    main()
