"""Layers that several tests run."""

import subprocess
import sys

import moegrad as mg
import numpy as np

N, D, H, E = 8, 6, 7, 4
ROUTERS = [entry["name"] for entry in mg.routers()]
ESTIMATORS = [entry["name"] for entry in mg.estimators()]


def layer_of(router="top-k", estimator="sparse", **more):
    traits = mg.routers()[router]["traits"]
    active = max(traits["least_active"], min(2, traits["most_active"] or 2))
    active = E if router == "softmax" else active
    return mg.Layer(D, H, E, active, output=3, router=router, estimator=estimator, **more)


def numbers(dtype="float64", rows=N, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, D)).astype(dtype)


def context(dtype="float64"):
    """What some routers and estimators read besides x."""
    attention = np.random.default_rng(1).normal(size=(2, N // 2, N // 2)).astype(dtype)
    return {"ids": np.arange(N), "sequence": N // 2, "attention": attention}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def digest(job):
    """For other processes: the bytes of a pass."""
    layer, x = job
    out = layer(x, layer.init(seed=4), seed=5)
    return out.y.tobytes() + out.backward(out.y)["experts.w1"].tobytes()


def busy():
    layer = mg.Layer(32, 64, 8, 2, router="moesart")
    return layer, np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
