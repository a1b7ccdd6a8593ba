"""What interception costs an operation of PyTorch's, and the check of a block of 1e5 parameters."""

import statistics
import time

import moegrad.torch as mgt
import torch
from moegrad.torch._frozen import Frozen, Recording

OPERATIONS = 400


def program(x):
    for _ in range(OPERATIONS // 4):
        x = ((x * 0.5).tanh() + 1.0).sigmoid()
    return x


def microseconds(run, repeats=15):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times) / OPERATIONS


torch.set_num_threads(1)
x = torch.randn(8, dtype=torch.float64, requires_grad=True)
recording = Recording()


def frozen(replaying):
    with Frozen(None, recording, replaying):
        program(x)


plain = microseconds(lambda: program(x))
for name, replaying in (("record", False), ("replay", True)):
    over = microseconds(lambda: frozen(replaying)) - plain  # noqa: B023
    print(f"{name}: {over:.1f} us over {plain:.1f} us for an operation")


class Block(torch.nn.Module):
    def __init__(self, width=64, hidden=100, experts=8, active=2):
        super().__init__()
        self.gate = torch.nn.Linear(width, experts)
        self.up = torch.nn.Parameter(torch.randn(experts, width, hidden) / 8)
        self.down = torch.nn.Parameter(torch.randn(experts, hidden, width) / 10)
        self.active = active

    def forward(self, x):
        weights, chosen = torch.softmax(self.gate(x), -1).topk(self.active)
        y = torch.zeros_like(x)
        for e in range(len(self.up)):
            rows, places = (chosen == e).nonzero(as_tuple=True)
            h = torch.relu(x[rows] @ self.up[e]) @ self.down[e]
            y = y.index_add(0, rows, h * weights[rows, places, None])
        return y


torch.manual_seed(0)
block, x = Block(), torch.randn(32, 64)
start = time.perf_counter()
report = mgt.gradcheck(block, x)
seconds = time.perf_counter() - start
count = sum(p.numel() for p in block.parameters())
print(f"{count} parameters: {report.verdict}, {report.max_error:.0e}, {seconds:.1f} s")
