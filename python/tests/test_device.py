"""device="cuda": one clear error where the package has none, else the CPU's numbers.

The package of this tree's tests is built without CUDA. On the emulated device, by hand:
MOEGRAD_CUDA=emulated scripts/python build && scripts/python test python/tests/test_device.py
"""

import pickle
import threading

import moegrad as mg
import numpy as np
import pytest

HERE = "cuda" in mg.devices()
on_cuda = pytest.mark.skipif(not HERE, reason="this package is built without CUDA, or has no GPU")

SMALL = {"model": 6, "hidden": 8, "experts": 4, "active": 2}
CELL = {"experts": 4, "active": 2, "scale": 1.5, "loss": "linear", "draws": 1, "progress": False}
RUN = {"epochs": 1, "seed": 3, "experts": 4, "width": 8, "hidden": 8, "batch": 512, "dtype": "f64"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cpu"
    return mg.train("synthetic", out=out, progress=False, **RUN)


ENTRIES = {
    "Layer": lambda device, _: mg.Layer(**SMALL, device=device),
    "check_operation": lambda device, _: mg.check_operation("relu", device=device),
    "check_router": lambda device, _: mg.check_router("top-k", device=device),
    "check_estimator": lambda device, _: mg.check_estimator("sparse", device=device),
    "train": lambda device, run: mg.train(
        "synthetic", out=run.folder / "b", device=device, progress=False, **RUN
    ),
    "resume": lambda device, run: run.resume(device=device, progress=False),
    "bias": lambda device, _: mg.study.bias(routers="top-k", device=device, **CELL),
    "fidelity": lambda device, run: mg.study.fidelity(run, batch=8, device=device),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_device_that_does_not_exist(entry, run):
    with pytest.raises(mg.Error) as error:
        ENTRIES[entry]("gpu", run)
    assert str(error.value) == "[device] there is no device 'gpu'. Use 'cpu' or 'cuda'."
    assert not (run.folder / "b").exists()


@pytest.mark.skipif(HERE, reason="this package has the device")
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_package_without_cuda_says_how_to_build_one(entry, run):
    with pytest.raises(mg.Error) as error:
        ENTRIES[entry]("cuda", run)
    assert str(error.value) == (
        "[device] this package is built without CUDA. Build it where nvcc 13 is: pip install . -C "
        "cmake.define.MOEGRAD_CUDA=toolkit, or use device='cpu'."
    )
    assert not (run.folder / "b").exists()


def test_devices():
    assert mg.devices() == (["cpu", "cuda"] if HERE else ["cpu"])
    layer = mg.Layer(**SMALL, device="cpu")
    assert layer == mg.Layer(**SMALL) and "device" not in repr(layer)
    with pytest.raises(mg.Error, match=r"the device is None. Use 'cpu' or 'cuda'"):
        mg.Layer(**SMALL, device=None)


def apart(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    return np.abs(a - b).max() / max(1e-3, np.abs(b).max())


PAIRS = [
    ("top-k", "sparse", 2, {}),
    ("moesart", "sparse", 2, {}),
    ("top-k", "ste-dense", 2, {}),
    ("top-k", "default-ema", 2, {}),
    ("categorical", "st", 1, {}),
    ("gumbel-top-k-st", "sparse", 2, {}),
    ("switch", "sparse", 1, {"aux": 0.01}),
    ("soft-moe", "sparse", 1, {}),
]


@on_cuda
@pytest.mark.parametrize("router, estimator, active, options", PAIRS)
def test_a_layer_has_the_cpus_numbers(router, estimator, active, options):
    sizes = {**SMALL, "active": active, "router": router, "estimator": estimator, **options}
    here, there = mg.Layer(**sizes), mg.Layer(**sizes, device="cuda")
    assert here != there and pickle.loads(pickle.dumps(there)) == there
    assert "device='cuda'" in repr(there)
    rng = np.random.default_rng(1)
    w = here.init(seed=2, dtype="float64")
    x = rng.normal(size=(10, 6))
    passes = [layer(x, w, seed=5) for layer in (here, there)]
    dy = rng.normal(size=passes[0].y.shape)
    gradients = [p.backward(dy) for p in passes]
    assert apart(passes[1].y, passes[0].y) < 1e-12
    assert ["transfer" in str(p.tape) for p in passes] == [False, True]
    for what in ("selected", "load"):
        assert np.array_equal(getattr(passes[0], what), getattr(passes[1], what))
    assert passes[0].dropped == passes[1].dropped
    assert apart(passes[1].weights, passes[0].weights) < 1e-12
    assert (passes[0].auxiliary is None) == (passes[1].auxiliary is None)
    if passes[0].auxiliary is not None:
        assert passes[1].auxiliary == pytest.approx(passes[0].auxiliary, rel=1e-12)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert apart(gradients[1][name], gradient) < 1e-11, name
    for name, update in passes[0].updates.items():
        assert apart(passes[1].updates[name], update) < 1e-12


@on_cuda
def test_arguments_of_a_pass_and_what_is_written_too_early():
    here, there = (mg.Layer(**SMALL, router="top-k", device=d) for d in ("cpu", "cuda"))
    w = here.init(seed=2, dtype="float64")
    x = np.random.default_rng(1).normal(size=(6, 6))
    given = {"mask": np.array([1, 1, 0, 1, 1, 1]), "sequence": 3, "seed": 1}
    assert apart(there(x, w, **given).y, here(x, w, **given).y) < 1e-12
    out = there(x, w, seed=1)
    x[0, 0] += 1
    with pytest.raises(mg.Error, match="'x' was written after the pass"):
        out.backward(np.ones((6, 6)))


@on_cuda
def test_losses_by_row():
    sizes = {**SMALL, "active": 1, "router": "categorical", "estimator": "reinforce"}
    here, there = (mg.Layer(**sizes, device=d) for d in ("cpu", "cuda"))
    w = here.init(seed=2, dtype="float64")
    x = np.random.default_rng(1).normal(size=(5, 6))
    found = []
    for layer in (here, there):
        out = layer(x, w, seed=3, mask=np.array([1, 1, 0, 1, 1]))
        found.append(out.backward(out.y, losses=(out.y**2).sum(1) / 2))
    for name, gradient in found[0].items():
        assert apart(found[1][name], gradient) < 1e-11, name


@on_cuda
def test_checks_within_a_program():
    layer = mg.Layer(**SMALL, router="moesart", device="cuda")
    w = layer.init(seed=2, dtype="float64")

    def program(run, x):
        out = layer(x, w, seed=1, run=run)
        return out.y, lambda dy: (out.backward(dy)["x"],)

    report = mg.gradcheck(program, np.random.default_rng(1).normal(size=(2, 6)))
    assert report, str(report)


@on_cuda
def test_the_engines_own_checks():
    for row in (
        mg.check_operation("layer_norm", device="cuda"),
        mg.check_router("hash", device="cuda"),
        mg.check_estimator("st", device="cuda"),
    ):
        assert row, str(row)


@on_cuda
def test_training_and_going_on_elsewhere(run, tmp_path):
    there = mg.train("synthetic", out=tmp_path / "cuda", device="cuda", progress=False, **RUN)
    assert there.result["test_loss"] == pytest.approx(run.result["test_loss"], rel=1e-9)
    there.resume(epochs=2, progress=False)
    both = mg.train("synthetic", out=tmp_path / "cpu", progress=False, **{**RUN, "epochs": 2})
    assert there.result["steps"] == both.result["steps"]
    assert np.isfinite(there.result["test_loss"])


@on_cuda
def test_studies(run):
    for study in (
        lambda device: mg.study.bias(routers=["moesart", "top-k"], device=device, **CELL),
        lambda device: mg.study.fidelity(run, estimators=["sparse"], batch=8, device=device),
    ):
        here, there = study("cpu").rows, study("cuda").rows
        assert len(here) == len(there)
        for a, b in zip(there, here):
            assert (a.pop("device"), b.pop("device")) == ("cuda", "cpu")
            for name, value in b.items():
                if name.startswith("own_bias"):
                    continue
                assert a[name] == (
                    pytest.approx(value, rel=1e-6, abs=1e-9) if type(value) is float else value
                )


@on_cuda
def test_two_threads_at_once():
    layer = mg.Layer(**SMALL, router="top-k", device="cuda")
    w = layer.init(seed=2, dtype="float64")
    x = np.random.default_rng(1).normal(size=(8, 6))
    want = layer(x, w, seed=1).backward(np.ones((8, 6)))
    found = []

    def work():
        for _ in range(5):
            found.append(layer(x, w, seed=1).backward(np.ones((8, 6))))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for gradients in found:
        for name, value in want.items():
            assert np.array_equal(gradients[name], value)


@on_cuda
def test_a_module_of_pytorch():
    torch = pytest.importorskip("torch")
    import moegrad.torch as mgt

    found = []
    for device in ("cpu", "cuda"):
        layer = mg.Layer(**{**SMALL, "active": 1}, router="switch", aux=0.01, device=device)
        moe = mgt.MoE(layer, dtype=torch.float64, seed=1)
        x = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(5, 6).requires_grad_()
        torch.manual_seed(7)  # of the draws
        y = moe(x)
        (y.square().sum() + moe.auxiliary).backward()
        found.append([y, x.grad, *(p.grad for p in moe.parameters())])
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_maths_and_capture_are_of_cuda(tmp_path):
    for extra, message in [
        ({"maths": "fp8"}, "[train] maths is 'fp8'. Use exact, tf32 or bf16."),
        (
            {"maths": "tf32"},
            "[train] maths is tf32, and the device is cpu. Use the device cuda, or",
        ),
        ({"capture": True}, "[train] the cpu has no graphs to capture steps in. Use cuda, or do"),
    ]:
        with pytest.raises(mg.Error) as error:
            mg.train("synthetic", out=tmp_path / "run", progress=False, **extra, **RUN)
        assert str(error.value).startswith(message)
        assert not (tmp_path / "run").exists()


@on_cuda
def test_a_captured_run_has_the_bits_of_a_launched_one(run, tmp_path):
    results = []
    for capture in (False, True):
        out = tmp_path / str(capture)
        made = mg.train("synthetic", out=out, device="cuda", capture=capture, progress=False, **RUN)
        results.append({k: v for k, v in made.result.items() if k.startswith("test")})
    assert results[0] == results[1]
