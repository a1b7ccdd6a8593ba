"""PyTorch, eager and compiled. OMP_NUM_THREADS says how many threads.

The layer's variants: `loop`, the usual loop over experts with index_add; `padded`, rows gathered into
[E, C, D] for the largest load C, and batched products; `grouped`, sorted rows and grouped_mm;
`compiled`, torch.compile of `padded`.
"""
import os

import torch
import torch.nn.functional as F

from peer import Case, serve

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def numbers(tensors):
    return [t.detach().numpy() for t in tensors]


# --- the layer: x [N, D], gates [N, k], selected [N, k], w1 [E, D, H], w2 [E, H, D] -> y [N, D]


def loop_layer(x, gates, selected, w1, w2, b1=None, b2=None):
    y = torch.zeros_like(x)
    for e in range(w1.shape[0]):
        token, choice = torch.where(selected == e)
        if token.numel() == 0:
            continue
        if b1 is None:
            h = torch.relu(x[token] @ w1[e]) @ w2[e]
        else:
            h = torch.addmm(b2[e], torch.relu(torch.addmm(b1[e], x[token], w1[e])), w2[e])
        y.index_add_(0, token, h * gates[token, choice, None])
    return y


def sort_choices(selected, experts):
    """Slots by expert: each one's choice t k + j; and the rows of each expert."""
    flat = selected.reshape(-1)
    order = torch.argsort(flat, stable=True)
    return flat, order, torch.bincount(flat, minlength=experts)


def padded_products(x, gates, place, w1, w2, capacity):
    """place [N k]: where in [E C] each choice's row stands."""
    k = gates.shape[1]
    rows = x.new_zeros(w1.shape[0] * capacity, x.shape[1])
    rows = rows.index_put((place,), x.repeat_interleave(k, 0)).view(w1.shape[0], capacity, -1)
    h = torch.bmm(torch.relu(torch.bmm(rows, w1)), w2).view(w1.shape[0] * capacity, -1)
    return (h[place].view(x.shape[0], k, -1) * gates[:, :, None]).sum(1)


def padded_layer(x, gates, selected, w1, w2, products=padded_products):
    flat, order, count = sort_choices(selected, w1.shape[0])
    capacity = int(count.max())
    start = torch.cumsum(count, 0) - count
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel()) - start[flat[order]]
    return products(x, gates, place + flat * capacity, w1, w2, capacity)


def grouped_layer(x, gates, selected, w1, w2, b1=None, b2=None):
    flat, order, count = sort_choices(selected, w1.shape[0])
    offsets = torch.cumsum(count, 0).to(torch.int32)
    expert, token = flat[order], order // gates.shape[1]
    h = F.grouped_mm(x[token], w1, offs=offsets)
    h = F.grouped_mm(torch.relu(h if b1 is None else h + b1[expert]), w2, offs=offsets)
    h = (h if b2 is None else h + b2[expert]) * gates.reshape(-1)[order, None]
    return torch.zeros_like(x).index_add(0, token, h)


def compiled_products():
    return torch.compile(padded_products, dynamic=False)


def layer_case(tensors, compiled):
    names = ["x", "gates", "w1", "w2"]
    x, gates, w1, w2 = (torch.from_numpy(tensors[n]).requires_grad_() for n in names)
    selected = torch.from_numpy(tensors["selected"]).long()
    dy = torch.from_numpy(tensors["dy"])
    layers = {"loop": loop_layer, "padded": padded_layer, "grouped": grouped_layer}
    if compiled:
        torch._dynamo.reset()
        products = compiled_products()
        layers["compiled"] = lambda *inputs: padded_layer(*inputs, products=products)

    def run(layer):
        y = layer(x, gates, selected, w1, w2)
        return y, *torch.autograd.grad(y, [x, gates, w1, w2], dy)

    expected = {n: tensors[n] for n in ["y", "dx", "dgates", "dw1", "dw2"]}
    return Case(
        {name: {"step": lambda layer=layer: run(layer)} for name, layer in layers.items()},
        {name: lambda layer=layer: dict(zip(expected, numbers(run(layer)))) for name, layer in layers.items()},
        expected)


# --- models: parameters p by name -> loss


def linear(p, name, x):
    return torch.addmm(p[name + ".bias"], x, p[name + ".weight"])


def norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[name + ".scale"], p[name + ".shift"], 1e-5)


def mixture(p, x, k, layer):
    """Top-k of softmax scores, experts with biases; y, and scores and choices for a balance loss."""
    scores = torch.softmax(linear(p, "mixture.router", x), 1)
    gates, selected = torch.topk(scores, k)
    w1, b1, w2, b2 = (p["mixture.experts." + n] for n in ["w1", "b1", "w2", "b2"])
    return layer(x, gates, selected, w1, w2, b1, b2), scores, selected


def mlp_loss(p, batch, layer):
    h = batch["x"]
    layers = len(p) // 2
    for i in range(layers):
        h = linear(p, str(i), h if i == 0 else torch.relu(h))
    return F.cross_entropy(h, batch["labels"])


def vision_loss(p, batch, layer):
    h = norm(p, "norm1", torch.relu(linear(p, "input", batch["x"])))
    y, scores, selected = mixture(p, h, 2, layer)
    logits = linear(p, "head", norm(p, "norm2", h + y))
    experts = scores.shape[1]
    share = torch.bincount(selected.reshape(-1), minlength=experts) * (experts / selected.numel())
    return F.cross_entropy(logits, batch["labels"]) + 0.01 * (scores.mean(0) * share).sum()


def transformer_loss(p, batch, layer):
    x = batch["x"]
    normed = norm(p, "norm1", x)
    q, k, v = (linear(p, n, normed).view(8, 1, 128, -1) for n in ["query", "key", "value"])
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    h = x + linear(p, "output", mixed)
    return F.mse_loss(h + mixture(p, norm(p, "norm2", h), 2, layer)[0], batch["target"])


def rotary(x):
    """x [B, heads, T, d]: columns i and i + d/2 turned by t / 10000^(2i/d)."""
    length, d = x.shape[2:]
    angle = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, d, 2) / d)).repeat(1, 2)
    return x * angle.cos() + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * angle.sin()


def gated_loop(x, gates, selected, w1, w3, w2):
    y = torch.zeros_like(x)
    for e in range(w1.shape[0]):
        token, choice = torch.where(selected == e)
        if token.numel() > 0:
            rows = x[token]
            h = (F.silu(rows @ w1[e]) * (rows @ w3[e])) @ w2[e]
            y.index_add_(0, token, h * gates[token, choice, None])
    return y


def gated_grouped(x, gates, selected, w1, w3, w2):
    flat, order, count = sort_choices(selected, w1.shape[0])
    offsets = torch.cumsum(count, 0).to(torch.int32)
    token = order // gates.shape[1]
    rows = x[token]
    h = F.silu(F.grouped_mm(rows, w1, offs=offsets)) * F.grouped_mm(rows, w3, offs=offsets)
    h = F.grouped_mm(h, w2, offs=offsets) * gates.reshape(-1)[order, None]
    return torch.zeros_like(x).index_add(0, token, h)


def language_loss(p, batch, layer):
    windows = batch["windows"]
    seen, told = windows[:, :-1], windows[:, 1:].reshape(-1)
    b, length = seen.shape
    h = p["embedding"][seen].view(b * length, -1)
    width = h.shape[1]
    balance = 0.0
    for block in range(1 + max(int(n.split(".")[0]) for n in p if n[0].isdigit())):
        w = {n.removeprefix(f"{block}."): t for n, t in p.items() if n.startswith(f"{block}.")}
        x = F.rms_norm(h, (width,), w["norm1"], 1e-6)
        q, k, v = ((x @ w["attention." + n]).view(b, length, 4, -1).transpose(1, 2) for n in "qkv")
        mixed = F.scaled_dot_product_attention(rotary(q), rotary(k), v, is_causal=True)
        h = h + mixed.transpose(1, 2).reshape(h.shape) @ w["attention.o"]
        x = F.rms_norm(h, (width,), w["norm2"], 1e-6)
        if block == 0:
            h = h + (F.silu(x @ w["dense.w1"]) * (x @ w["dense.w3"])) @ w["dense.w2"]
            continue
        scores = torch.softmax(linear(w, "mixture.router", x), 1)
        gates, selected = torch.topk(scores, 2)
        h = h + layer(x, gates, selected, *(w["mixture.experts." + n] for n in ["w1", "w3", "w2"]))
        share = torch.bincount(selected.reshape(-1), minlength=scores.shape[1]) * (scores.shape[1] / selected.numel())
        balance = balance + (scores.mean(0) * share).sum()
    return F.cross_entropy(F.rms_norm(h, (width,), p["norm"], 1e-6) @ p["embedding"].T, told) + 0.01 * balance


MATRICES = {"embedding", "q", "k", "v", "o"}  # beside those that begin with w


class Model:
    def __init__(self, tensors, loss, layer):
        self.p = {n.removeprefix("parameter."): torch.from_numpy(t.copy()).requires_grad_()
                  for n, t in tensors.items() if n.startswith("parameter.")}
        self.batch = {n: torch.from_numpy(tensors[n]) for n in ["x", "labels", "target", "windows"]
                      if n in tensors}
        for integers in {"labels", "windows"} & self.batch.keys():
            self.batch[integers] = self.batch[integers].long()
        self.loss, self.layer = loss, layer
        def decays(name):
            return name.split(".")[-1] in MATRICES or name.split(".")[-1].startswith("w")

        matrices = [t for n, t in self.p.items() if decays(n)]
        rest = [t for n, t in self.p.items() if not decays(n)]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
            lr=2e-3, fused=True)

    def value(self):
        return self.loss(self.p, self.batch, self.layer)

    def forward(self):
        with torch.no_grad():
            self.value()

    def gradient(self):
        return torch.autograd.grad(self.value(), list(self.p.values()))

    def step(self):
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.value()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.p.values(), 1.0, foreach=True)
        self.optimiser.step()
        return loss

    def results(self):
        gradients = dict(zip(["gradient." + n for n in self.p], numbers(self.gradient())))
        losses = torch.stack([self.step().detach() for _ in range(3)]).numpy()
        return {**gradients, "losses": losses}


def model_case(tensors, loss, variants):
    expected = {n: t for n, t in tensors.items() if n.startswith("gradient.") or n == "losses"}
    models = {name: Model(tensors, loss, layer) for name, layer in variants.items()}
    return Case(
        {name: {"step": m.step, "gradient": m.gradient, "forward": m.forward} for name, m in models.items()},
        {name: m.results for name, m in models.items()}, expected)


EAGER = {"eager": None}  # nothing to choose: no mixture
LAYERS = {"loop": loop_layer, "grouped": grouped_layer}
GATED = {"loop": gated_loop, "grouped": gated_grouped}
MODELS = {"mlp": (mlp_loss, EAGER), "small-mlp": (mlp_loss, EAGER),
          "vision": (vision_loss, LAYERS), "transformer": (transformer_loss, LAYERS),
          "language": (language_loss, GATED)}

# Compiling takes seconds for each size: one small and one large.
COMPILED = {"N1024-D64-H128-E8-k2", "N4096-D256-H1024-E16-k2"}


def make_case(name, tensors):
    if name in MODELS:
        return model_case(tensors, *MODELS[name])
    return layer_case(tensors, compiled=name in COMPILED)


if __name__ == "__main__":
    serve(make_case)
