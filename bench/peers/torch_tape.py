"""Prints nanoseconds to record an operation on a tensor of one element, and to replay it, from Python."""
import time

import torch

torch.set_num_threads(1)
OPERATIONS, CALLS = 1000, 30


def run(calls):
    a = torch.full((1,), 0.999, requires_grad=True)
    record = backward = 0.0
    for _ in range(calls):
        x = torch.full((1,), 1.0, requires_grad=True)
        start = time.perf_counter()
        y = x
        for _ in range(OPERATIONS // 2):
            y = y * a + a
        middle = time.perf_counter()
        torch.autograd.grad(y, [x, a])
        backward += time.perf_counter() - middle
        record += middle - start
        del y
    return [1e9 * t / (OPERATIONS * calls) for t in (record, backward)]


run(5)
print("{:.1f} {:.1f}".format(*run(CALLS)))
