"""The engine's routers and estimators in a PyTorch model: a Module, an optimiser, a loss."""

import moegrad as mg
import moegrad.torch as mgt
import torch

torch.manual_seed(0)
x = torch.randn(256, 8)
target = torch.sin(x @ torch.randn(8, 8))
for router, estimator in (("top-k", "sparse"), ("top-k", "ste-dense"), ("moesart", "sparse")):
    torch.manual_seed(1)
    layer = mg.Layer(model=8, hidden=16, experts=4, active=2, router=router, estimator=estimator)
    moe = mgt.MoE(layer)
    optimiser = torch.optim.AdamW(moe.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        loss = (moe(x) - target).square().mean()
        (loss + moe.auxiliary).backward()
        optimiser.step()
    moe.eval()
    error = (moe(x) - target).square().mean()
    print(f"{router:8} {estimator:10} error {error:.3f}, load {moe.load.tolist()}")
