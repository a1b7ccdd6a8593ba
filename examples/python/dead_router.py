"""Find a router that cannot learn, and where its program decides (as in Megatron-LM issue 894)."""

import moegrad.torch as mgt
import torch


def mixture(x, gate, experts, k):
    logits = x @ gate
    top, chosen = logits.topk(k)  # top-k first, softmax behind it: with k = 1 the weight is 1
    weights = torch.softmax(top, -1)
    outputs = torch.einsum("nd,edh->neh", x, experts)
    picked = outputs.gather(1, chosen[..., None].expand(-1, -1, outputs.shape[-1]))
    return (weights[..., None] * picked).sum(1)


torch.manual_seed(0)
x, gate, experts = torch.randn(4, 3), torch.randn(3, 5), torch.randn(5, 3, 2)
for k in (2, 1):
    report = mgt.gradcheck(mixture, x, gate, experts, k)
    print(f"k = {k}: {report.verdict}, dead: {report.dead}")
print(mgt.decisions(mixture, x, gate, experts, 1))
