"""The published Huginn's logits, gradients and exit steps, from its own weights and initial states."""

import pytest
import torch

from athanor.models.build import build_model
from athanor.models.families.huginn.decoding import DepthPolicy
from athanor.models.families.huginn.exit_criteria import ExitRule
from athanor.models.model_recipe import ModelRecipe

BLOCK_NAMES = {
    "norm_1.weight": "attention_norm.gain",
    "norm_2.weight": "attention_sum_norm.gain",
    "norm_3.weight": "ffn_norm.gain",
    "norm_4.weight": "ffn_sum_norm.gain",
    "attn.Wqkv.weight": "attention.query_key_value.weight",
    "attn.proj.weight": "attention.out.weight",
    "mlp.fc.weight": "ffn.gate_up.weight",
    "mlp.proj.weight": "ffn.down.weight",
}
BIASES = ("attention.query_bias", "attention.key_bias")
GROUPS = {"prelude": "prelude", "core_block": "core.blocks", "coda": "coda"}
OTHER_NAMES = {
    "transformer.wte.weight": "embedding.weight",
    "transformer.adapter.weight": "core.adapter.weight",
    "transformer.ln_f.weight": "final_norm.gain",
}
DERIVED = {"freqs_cis", "lm_head.weight"}


def ours(name, tensor):
    """Our names and parts of a published tensor."""
    if name in OTHER_NAMES:
        return {OTHER_NAMES[name]: tensor}
    group, layer, rest = name.removeprefix("transformer.").split(".", 2)
    prefix = f"{GROUPS[group]}.{layer}"
    if rest == "attn.qk_bias":
        return {f"{prefix}.{name}": bias.flatten() for name, bias in zip(BIASES, tensor, strict=True)}
    return {f"{prefix}.{BLOCK_NAMES[rest]}": tensor}


def renamed(state):
    return {
        key: part for name, tensor in state.items() if name not in DERIVED for key, part in ours(name, tensor).items()
    }


def model_of(cfg, state, rope_base):
    width, heads = cfg["n_embd"], cfg["num_attention_heads"]
    ends = cfg["n_layers_in_prelude"], cfg["n_layers_in_coda"]
    recipe = ModelRecipe(
        family="huginn",
        vocab_size=cfg["vocab_size"],
        d_model=width,
        n_layers=sum(ends) + cfg["n_layers_in_recurrent_block"],
        n_heads=heads,
        n_kv_heads=cfg["num_key_value_heads"],
        head_dim=width // heads,
        d_ff=cfg["intermediate_size"],
        max_seq_len=cfg["block_size"],
        rope_base=rope_base,
        norm_eps=cfg["norm_eps"],
        huginn={
            "prelude_layers": ends[0],
            "coda_layers": ends[1],
            "mean_recurrence": cfg["mean_recurrence"],
            "backprop_depth": cfg["mean_backprop_depth"],
            "sampling": cfg["sampling_scheme"],
            "injection": cfg["injection_type"],
            "qk_bias": cfg["qk_bias"],
            "init": cfg["init_strategy"],
            "tied": cfg["tie_embeddings"],
        },
    )
    model = build_model(recipe)
    model.load_state_dict(renamed(state))
    return model.eval()


@pytest.fixture
def dynamic(oracle_path):
    return torch.load(oracle_path("huginn_dynamic.pt"), weights_only=True)


@pytest.fixture
def adaptive(oracle_path):
    return torch.load(oracle_path("huginn_hf.pt"), weights_only=True)


@pytest.fixture
def published(dynamic, adaptive):
    """The reference file, and our model with its weights and initial states."""
    model = model_of(dynamic["cfg"], dynamic["state_dict"], adaptive["hf_cfg"]["rope_base"])
    model.initial_state = lambda *_: dynamic["s0"]
    return dynamic, model


@torch.no_grad()
def test_oracle_logits_at_every_depth(published):
    file, model = published
    for steps, logits in file["logits"].items():
        with model.recurring(int(steps)):
            torch.testing.assert_close(model(file["input_ids"]), logits, atol=1e-5, rtol=0)


def test_oracle_loss_and_all_gradients_of_truncated_backpropagation(published):
    file, model = published
    ids = file["input_ids"]
    with model.recurring(3, 2):
        loss = model.loss(ids, ids.roll(-1, 1))
    mean = loss.total / loss.tokens
    mean.backward()
    torch.testing.assert_close(mean, file["loss_3_2"], atol=1e-5, rtol=0)
    wanted, found = renamed(file["grads_3_2"]), dict(model.named_parameters())
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert (found[name].grad - gradient).norm() <= 1e-4 * gradient.norm(), name


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True], ids=["token-by-token", "in-one-piece"])
def test_oracle_exit_steps_and_logits_of_adaptive_decoding(dynamic, adaptive, whole):
    cfg = {**adaptive["hf_cfg"], "num_attention_heads": adaptive["hf_cfg"]["n_heads"]}
    model = model_of(cfg, dynamic["state_dict"], cfg["rope_base"]).double()  # shared slots magnify rounding
    ids, s0 = dynamic["input_ids"][:1], dynamic["s0"][:1].double()
    for (criterion, threshold, lookup), file in adaptive["adaptive"].items():
        exits = None if criterion == "none" else ExitRule(criterion, float(threshold))
        model.depth_policy = DepthPolicy(exits, lookup.removesuffix("-m4"))
        cache, logits = model.new_cache(1), []
        for start in [0] if whole else range(ids.shape[1]):
            cut = slice(None) if whole else slice(start, start + 1)
            model.initial_state = lambda *_, cut=cut: s0[:, cut]
            logits.append(model(ids[:, cut], cache=cache))
        core = cache.layers[len(model.prelude)]
        assert core.depth_BS[0].tolist() == file["steps"], (criterion, lookup)
        torch.testing.assert_close(torch.cat(logits, dim=1), file["logits"].double(), atol=1e-4, rtol=0)
