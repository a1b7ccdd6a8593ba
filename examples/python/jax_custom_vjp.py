"""A fused combine of expert outputs in JAX, whose backward pass is checked right and wrong.

The wrong one returns no gradient for the combine weights, so that the router learns nothing.
"""

import jax
import jax.numpy as jnp
import moegrad.jax as mgj


def combine_with(backward):
    """y [T, K, D] of the K chosen experts and their weights [T, K]: sum_k w_tk y_tkd."""

    def combine(y, weights):
        return jnp.einsum("tkd,tk->td", y, weights)

    fused = jax.custom_vjp(combine)
    fused.defvjp(lambda y, weights: (combine(y, weights), (y, weights)), backward)
    return fused


def of_outputs(weights, dy):
    return jnp.einsum("td,tk->tkd", dy, weights)


right = combine_with(lambda r, dy: (of_outputs(r[1], dy), jnp.einsum("td,tkd->tk", dy, r[0])))
wrong = combine_with(lambda r, dy: (of_outputs(r[1], dy), None))


def layer(combine, scores, x):
    weights, chosen = jax.lax.top_k(jax.nn.softmax(scores), 2)
    experts = jnp.tanh(x[:, None, :] * (1.0 + chosen[..., None]))
    return combine(experts, weights)


scores = jax.random.normal(jax.random.key(1), (3, 4))
x = jax.random.normal(jax.random.key(2), (3, 5))
for name, combine in (("right", right), ("wrong", wrong)):
    report = mgj.gradcheck(layer, combine, scores, x)
    print(f"--- {name}\n{report}")
    assert bool(report) == (name == "right")
print(mgj.decisions(layer, right, scores, x))
