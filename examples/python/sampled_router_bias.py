"""The exact bias and variance of two gradients for a router that draws its expert."""

import moegrad.torch as mgt
import torch

COST = torch.tensor([1.0, -2.0, 0.5, 3.0])


def straight_through(logits):
    p = torch.softmax(logits, -1)
    hard = torch.nn.functional.one_hot(torch.multinomial(p, 1)[0], 4)
    gate = p + (hard - p).detach()
    return (gate * gate * COST).sum()


def score_function(logits):
    drawn = torch.distributions.Categorical(logits=logits)
    expert = drawn.sample()
    log_p = drawn.log_prob(expert)
    return COST[expert] * (1 + log_p - log_p.detach())


logits = torch.tensor([0.1, 0.5, -0.3, 0.2])
for loss in (straight_through, score_function):
    found = mgt.expectation(loss, logits)
    print(f"{loss.__name__}: E[L] {found.loss:.4f} over {found.outcomes} outcomes,")
    print(f"  bias {found.bias:.3f}, biased: {found.biased}, variance {found.total_variance:.3f}")
