"""The products and the copy of moegrad_gpu_bench, by PyTorch on the same GPU.

python3 gpu_peer.py
"""

import time

import torch


def seconds_of(work, repeats=20):
    """Of one call: the median of three series."""
    work()
    series = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        torch.cuda.synchronize()
        series.append((time.perf_counter() - start) / repeats)
    return sorted(series)[1]


def row(name, seconds, amount, unit):
    print(f"{name:<48} {1e6 * seconds:>12.1f} us {amount:>10.2f} {unit}", flush=True)


def main():
    for n in [1024, 4096, 8192]:
        for maths in ["exact", "tf32", "bf16"]:
            torch.backends.cuda.matmul.allow_tf32 = maths == "tf32"
            dtype = torch.bfloat16 if maths == "bf16" else torch.float32
            a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
            s = seconds_of(lambda a=a, b=b: a @ b)
            row(f"PyTorch, product {n} x {n} x {n}, {maths}", s, 2e-12 * n**3 / s, "TFLOP/s")
    x = torch.randn(1 << 28, device="cuda")
    y = torch.empty_like(x)
    s = seconds_of(lambda: y.copy_(x))
    row("PyTorch, copy of 1024 MiB", s, 8e-9 * x.numel() / s, "GB/s")


if __name__ == "__main__":
    main()
