"""JAX on the CPU, compiled by jit; as many threads as processors it may run on.

The layer's variants: `dense`, every expert for every token and a sum with the gates; `padded`, rows
gathered into [E, C, D] for the largest load C of this batch (known before compiling, which is in
JAX's favour), and batched products; `ragged`, sorted rows and ragged_dot.
"""
import functools

import jax
import jax.numpy as jnp
import numpy

from peer import Case, serve

# --- the layer: x [N, D], gates [N, k], selected [N, k], w1 [E, D, H], w2 [E, H, D] -> y [N, D]


def dense_layer(x, gates, selected, w1, w2, capacity, b1=0.0, b2=0.0):
    weights = (jax.nn.one_hot(selected, w1.shape[0], dtype=x.dtype) * gates[:, :, None]).sum(1)
    h = jnp.einsum("enh,ehd->end", jax.nn.relu(jnp.einsum("nd,edh->enh", x, w1) + b1), w2) + b2
    return jnp.einsum("ne,end->nd", weights, h)


def places(selected, experts, capacity):
    """Where in [E C] the row of each choice stands."""
    flat = selected.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    start = jnp.searchsorted(flat[order], jnp.arange(experts))
    rank = jnp.zeros_like(flat).at[order].set(jnp.arange(flat.size, dtype=flat.dtype) - start[flat[order]].astype(flat.dtype))
    return flat * capacity + rank


def padded_layer(x, gates, selected, w1, w2, capacity, b1=0.0, b2=0.0):
    experts, k = w1.shape[0], selected.shape[1]
    place = places(selected, experts, capacity)
    token = jnp.full(experts * capacity, x.shape[0]).at[place].set(jnp.arange(place.size) // k)
    rows = x.at[token].get(mode="fill", fill_value=0).reshape(experts, capacity, -1)
    h = jnp.einsum("ecd,edh->ech", rows, w1) + b1
    h = (jnp.einsum("ech,ehd->ecd", jax.nn.relu(h), w2) + b2).reshape(experts * capacity, -1)
    return (h[place].reshape(x.shape[0], k, -1) * gates[:, :, None]).sum(1)


def ragged_layer(x, gates, selected, w1, w2, capacity):
    flat = selected.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    count = jnp.bincount(flat, length=w1.shape[0])
    token = order // selected.shape[1]
    h = jax.nn.relu(jax.lax.ragged_dot(x[token], w1, count))
    h = jax.lax.ragged_dot(h, w2, count) * gates.reshape(-1)[order, None]
    return jnp.zeros_like(x).at[token].add(h)


def load_of(selected):
    return int(numpy.bincount(selected.reshape(-1)).max())


def layer_case(tensors):
    inputs = [jnp.asarray(tensors[n]) for n in ["x", "gates", "w1", "w2"]]
    selected, dy = jnp.asarray(tensors["selected"]), jnp.asarray(tensors["dy"])
    capacity = load_of(tensors["selected"])
    layers = {"padded": padded_layer}
    # Without padding or grouping the work is E / k times as much: only where that is little.
    if inputs[2].size * inputs[0].shape[0] < 2e9:
        layers |= {"dense": dense_layer, "ragged": ragged_layer}

    def compiled(layer):
        @jax.jit
        def run(x, gates, w1, w2):
            y, backward = jax.vjp(lambda *a: layer(a[0], a[1], selected, a[2], a[3], capacity), x, gates, w1, w2)
            return y, *backward(dy)
        return lambda: jax.block_until_ready(run(*inputs))

    runs = {name: compiled(layer) for name, layer in layers.items()}
    expected = {n: tensors[n] for n in ["y", "dx", "dgates", "dw1", "dw2"]}
    return Case({name: {"step": run} for name, run in runs.items()},
                {name: lambda run=run: dict(zip(expected, run())) for name, run in runs.items()}, expected)


# --- models: parameters p by name, batch b -> loss


def linear(p, name, x):
    return x @ p[name + ".weight"] + p[name + ".bias"]


def norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p[name + ".scale"] + p[name + ".shift"]


def mixture(p, x, k, layer):
    scores = jax.nn.softmax(linear(p, "mixture.router", x))
    gates, selected = jax.lax.top_k(scores, k)
    w1, b1, w2, b2 = (p["mixture.experts." + n] for n in ["w1", "b1", "w2", "b2"])
    capacity = 2 * selected.size // w1.shape[0]  # twice the mean load; the check would see a lost row
    return layer(x, gates, selected, w1, w2, capacity, b1[:, None], b2[:, None]), scores, selected


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def mlp_loss(p, b, layer):
    h = b["x"]
    for i in range(len(p) // 2):
        h = linear(p, str(i), h if i == 0 else jax.nn.relu(h))
    return cross_entropy(h, b["labels"])


def vision_loss(p, b, layer):
    h = norm(p, "norm1", jax.nn.relu(linear(p, "input", b["x"])))
    y, scores, selected = mixture(p, h, 2, layer)
    logits = linear(p, "head", norm(p, "norm2", h + y))
    experts = scores.shape[1]
    share = jnp.bincount(selected.reshape(-1), length=experts) * (experts / selected.size)
    return cross_entropy(logits, b["labels"]) + 0.01 * (scores.mean(0) * share).sum()


def transformer_loss(p, b, layer):
    x = b["x"]
    normed = norm(p, "norm1", x)
    q, k, v = (linear(p, n, normed).reshape(8, 128, -1) for n in ["query", "key", "value"])
    scores = jnp.einsum("bid,bjd->bij", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones((128, 128), bool)), scores, -jnp.inf)
    h = x + linear(p, "output", (jax.nn.softmax(scores) @ v).reshape(x.shape))
    return ((h + mixture(p, norm(p, "norm2", h), 2, layer)[0] - b["target"]) ** 2).mean()


def adamw(p, g, m, v, t):
    """One step with clipping to norm 1; lr 2e-3, decay 0.01 of matrices."""
    total = jnp.sqrt(sum((x**2).sum() for x in g.values()))
    factor = jnp.where(total > 1.0, 1.0 / total, 1.0)
    new_p, new_m, new_v = {}, {}, {}
    for name in p:
        scaled = g[name] * factor
        new_m[name] = 0.9 * m[name] + 0.1 * scaled
        new_v[name] = 0.999 * v[name] + 0.001 * scaled**2
        update = new_m[name] / (1 - 0.9**t) / (jnp.sqrt(new_v[name] / (1 - 0.999**t)) + 1e-8)
        decay = 0.01 if name.split(".")[-1].startswith("w") else 0.0
        new_p[name] = p[name] - 2e-3 * (update + decay * p[name])
    return new_p, new_m, new_v


class Model:
    def __init__(self, tensors, loss, layer):
        self.p = {n.removeprefix("parameter."): jnp.array(t)
                  for n, t in tensors.items() if n.startswith("parameter.")}
        batch = {n: jnp.asarray(tensors[n]) for n in ["x", "labels", "target"] if n in tensors}
        self.m = jax.tree.map(jnp.zeros_like, self.p)
        self.v = jax.tree.map(jnp.zeros_like, self.p)
        self.t = 0
        self.value = jax.jit(lambda p: loss(p, batch, layer))
        self.gradients = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, layer)))

        @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(p, m, v, t):
            value, g = jax.value_and_grad(lambda p: loss(p, batch, layer))(p)
            return value, *adamw(p, g, m, v, t)
        self.compiled_step = step

    def forward(self):
        jax.block_until_ready(self.value(self.p))

    def gradient(self):
        return jax.block_until_ready(self.gradients(self.p))[1]

    def step(self):
        self.t += 1
        value, self.p, self.m, self.v = self.compiled_step(self.p, self.m, self.v, float(self.t))
        jax.block_until_ready(self.p)
        return value

    def results(self):
        gradients = {"gradient." + n: g for n, g in self.gradient().items()}
        return {**gradients, "losses": numpy.array([self.step() for _ in range(3)])}


JIT = {"jit": None}  # nothing to choose: no mixture
LAYERS = {"padded": padded_layer, "dense": dense_layer}
MODELS = {"mlp": (mlp_loss, JIT), "small-mlp": (mlp_loss, JIT),
          "vision": (vision_loss, LAYERS), "transformer": (transformer_loss, LAYERS)}


def make_case(name, tensors):
    if name == "language":
        return Case({}, {}, {})  # not written for JAX: it has no variants to time
    if name not in MODELS:
        return layer_case(tensors)
    loss, layers = MODELS[name]
    models = {variant: Model(tensors, loss, layer) for variant, layer in layers.items()}
    expected = {n: t for n, t in tensors.items() if n.startswith("gradient.") or n == "losses"}
    return Case({v: {"step": m.step, "gradient": m.gradient, "forward": m.forward} for v, m in models.items()},
                {v: m.results for v, m in models.items()}, expected)


if __name__ == "__main__":
    serve(make_case)
