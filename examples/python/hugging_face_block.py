"""A mixture block of the package transformers, unedited, and with one error planted."""

import moegrad.torch as mgt
import torch
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

config = MixtralConfig(
    hidden_size=8, intermediate_size=6, num_local_experts=4, num_experts_per_tok=2
)
torch.manual_seed(0)
block = MixtralSparseMoeBlock(config)
for parameter in block.parameters():
    torch.nn.init.normal_(parameter, std=0.5)
hidden = torch.randn(2, 5, 8)

report = mgt.gradcheck(block, hidden)
print(report.verdict, *report.notes, sep="\n  ")
print(mgt.decisions(block, hidden))

# A scale computed from the activations, but as a number: no gradient passes it.
block.experts.register_forward_hook(lambda m, inputs, y: y * (1 + 0.1 * y.sum().item()))
print(mgt.gradcheck(block, hidden).verdict)
