"""Mixture blocks of the package transformers, unedited, and with one error planted in each."""

import importlib

import moegrad.torch as mgt
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

D = 8
SMALL = {
    "hidden_size": D,
    "intermediate_size": 6,
    "moe_intermediate_size": 6,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}

# name: module, configuration, block, further settings, the errors that are planted
BLOCKS = {
    "Mixtral": ("mixtral", "MixtralConfig", "MixtralSparseMoeBlock", {}, "scaled weights"),
    "DeepSeek-V3": (
        "deepseek_v3",
        "DeepseekV3Config",
        "DeepseekV3MoE",
        {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "n_shared_experts": 1},
        "clipped gradient",
    ),
    "OLMoE": ("olmoe", "OlmoeConfig", "OlmoeSparseMoeBlock", {}, "leaked scale"),
    "Switch": (
        "switch_transformers",
        "SwitchTransformersConfig",
        "SwitchTransformersSparseMLP",
        {"d_model": D, "d_ff": 6, "expert_capacity": 3},
        "turned sign",
    ),
    "PhiMoE": ("phimoe", "PhimoeConfig", "PhimoeSparseMoeBlock", {}, "lost tokens"),
    "GPT-OSS": ("gpt_oss", "GptOssConfig", "GptOssMLP", {}, "hooked parameter"),
    "JetMoE": ("jetmoe", "JetMoeConfig", "JetMoeMoE", {}, "scaled weights"),
    "Qwen3-MoE": ("qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock", {}, "leaked scale"),
    "Llama 4": (
        "llama4",
        "Llama4TextConfig",
        "Llama4TextMoe",
        {"num_experts_per_tok": 1, "intermediate_size_mlp": 6},
        "clipped gradient",
    ),
    "NLLB-MoE": (
        "nllb_moe",
        "NllbMoeConfig",
        "NllbMoeSparseMLP",
        {"d_model": D, "expert_capacity": 4},
        "turned sign",
    ),
    "ERNIE 4.5": (
        "ernie4_5_moe",
        "Ernie4_5_MoeConfig",
        "Ernie4_5_MoeSparseMoeBlock",
        {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
        "lost tokens",
    ),
}


def make(name):
    module, configuration, block, settings, _ = BLOCKS[name]
    package = f"transformers.models.{module}"
    modeling = importlib.import_module(f"{package}.modeling_{module}")
    config = getattr(importlib.import_module(f"{package}.configuration_{module}"), configuration)(
        **{**SMALL, **settings}
    )
    further = (6,) if name == "NLLB-MoE" else ()
    torch.manual_seed(7)
    made = getattr(modeling, block)(config, *further)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.train(name != "PhiMoE")  # which trains by a surrogate: see below


QUICK = {"directions": 3, "cotangents": 2}
HIDDEN = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("name", BLOCKS)
def test_unedited_block_passes(name):
    report = mgt.gradcheck(make(name), HIDDEN, **QUICK)
    assert report, str(report)
    assert report.max_error < 1e-7
    assert report.decisions


# --- planted errors: what each does to the outputs of a part of the block ------------------------


def through(backward):
    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return backward(dy)

    return Changed.apply


def lose_rows(dy):
    dy = dy.clone()
    dy[: max(1, dy.shape[0] // 4)] = 0.0
    return dy


PLANTS = {
    "scaled weights": through(lambda dy: dy * 0.97),
    "clipped gradient": through(lambda dy: dy.clamp(-0.05, 0.05)),
    "turned sign": through(torch.neg),
    "lost tokens": through(lose_rows),
    "leaked scale": lambda x: x * (1.0 + 0.1 * x.sum().item()),
}


def on_floats(change, value):
    if isinstance(value, torch.Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(on_floats(change, v) for v in value)
    return value


def with_error(name):
    block, planted = make(name), BLOCKS[name][-1]
    if planted == "hooked parameter":
        next(block.parameters()).register_hook(lambda g: g * 1.05)
    else:
        part = getattr(block, "experts", None) or block
        part.register_forward_hook(lambda module, args, out: on_floats(PLANTS[planted], out))
    return block


@pytest.mark.parametrize("name", BLOCKS)
def test_planted_error_fails(name):
    report = mgt.gradcheck(with_error(name), HIDDEN, **QUICK)
    assert report.verdict == "fail", str(report)


def test_sparsemixer_of_phimoe_is_the_surrogate_that_it_states():
    """Trained, the block multiplies its gate by 1 or 1/3 and passes the gradient of the gate."""
    modeling = importlib.import_module("transformers.models.phimoe.modeling_phimoe")
    block = make("PhiMoE").train()

    class Stated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, hidden):
            class Multiplier:
                @staticmethod
                def apply(scores, gate, selected, gates, factor):
                    return gate + (gate * factor - gate).detach()

            fused, modeling.PhimoeMultiplier = modeling.PhimoeMultiplier, Multiplier
            try:
                return self.block(hidden)
            finally:
                modeling.PhimoeMultiplier = fused

    quick = {"elementwise_limit": 0, "directions": 2, "cotangents": 1}
    assert mgt.gradcheck(block, HIDDEN, **quick).verdict == "fail"
    report = mgt.gradcheck(block, HIDDEN, surrogate=Stated(), **quick)
    assert report, str(report)
