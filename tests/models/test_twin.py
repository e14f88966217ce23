"""The vanilla twin equals its model within 1 %, and is otherwise the same."""

import pytest

from athanor.core.errors import UserError
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.family import FAMILIES
from athanor.models.model_recipe import ModelRecipe
from athanor.models.sizes import SIZES
from athanor.models.twin import vanilla_twin


def parameters(recipe):
    return parameter_counts(recipe)["total"]


def training_flops(recipe, seq_len_tokens):
    flops = flops_per_token(recipe, seq_len_tokens)
    return flops.forward + flops.backward


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_twin_of_every_named_size_has_its_parameters_within_one_percent_in_ordinary_proportions(name):
    twin = vanilla_twin(SIZES[name])
    assert twin.family == "vanilla"
    assert abs(parameters(twin) / parameters(SIZES[name]) - 1) <= 0.01
    assert_one_would_train(twin)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_other_twin_of_every_named_size_has_its_training_flops_within_one_percent(name):
    twin = vanilla_twin(SIZES[name], "training-flops", seq_len_tokens=512)
    assert abs(training_flops(twin, 512) / training_flops(SIZES[name], 512) - 1) <= 0.01
    assert_one_would_train(twin)


def assert_one_would_train(twin):
    assert twin.d_model < 256 or 64 <= twin.head_dim <= 256
    assert twin.n_heads * twin.head_dim >= 0.75 * twin.d_model, "attention is as wide as the model"
    assert 2.5 <= twin.d_ff / twin.d_model <= 4
    assert 16 <= twin.d_model / twin.n_layers <= 256


def test_a_latent_head_a_mixture_of_experts_and_a_recurrence_make_no_straw_man_of_the_control():
    latent = vanilla_twin(SIZES["hydra-100m"])
    assert (latent.d_model, latent.n_layers, latent.head_dim) == (768, 8, 64), "HYDRA's own width and depth do"
    assert (SIZES["hydra-100m"].n_heads // SIZES["hydra-100m"].n_kv_heads) == latent.n_heads // latent.n_kv_heads
    experts = vanilla_twin(SIZES["hydra-1.5b-moe"])
    assert experts.d_model > 2048 and experts.n_layers > 22
    recurrent = vanilla_twin(SIZES["nebel-raven-3.5b"], "training-flops", 4096)
    assert recurrent.d_model > 5280 and recurrent.n_layers > 5 * 8


def test_flops_are_matched_at_the_row_length_asked_for():
    window = SIZES["swa-mla-small"]  # windows make long rows cheaper than the twin's full attention
    short, long = (vanilla_twin(window, "training-flops", tokens).d_ff for tokens in (256, 4096))
    assert short > long
    assert vanilla_twin(window, "training-flops") == vanilla_twin(window, "training-flops", window.max_seq_len)


def test_a_tiny_model_of_any_mode_has_a_twin_that_shares_vocabulary_and_rows(mode, tiny_recipe):
    recipe = tiny_recipe(mode, vocab_size=512, d_ff=200)
    twin = vanilla_twin(recipe)
    shape = {"family", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", *FAMILIES}
    assert {n: v for n, v in twin if n not in shape} == {n: v for n, v in recipe if n not in shape}
    assert all(getattr(twin, section, None) is None for section in FAMILIES)
    assert abs(parameters(twin) / parameters(recipe) - 1) <= 0.01


def test_a_skeleton_in_ordinary_proportions_is_shared_but_for_d_ff():
    recipe = SIZES["swa-mla-large"]
    own = {"family", "d_ff", *FAMILIES}
    assert {n: v for n, v in vanilla_twin(recipe) if n not in own} == {n: v for n, v in recipe if n not in own}


def test_a_twin_is_its_own_twin():
    twin = vanilla_twin(SIZES["polychromatic-600m"])
    assert vanilla_twin(twin) == twin == vanilla_twin(twin, "training-flops")


def test_a_width_that_is_fast_on_gpus_is_taken_where_it_matches():
    assert vanilla_twin(SIZES["polychromatic-600m"]).d_ff % 64 == 0


@pytest.mark.parametrize(
    "recipe",
    [
        {  # what both share already costs more
            "family": "swa_mla",
            "n_heads": 32,
            "swa_mla": {"n_swa": 0, "kv_rank": 1, "qk_nope_dim": 1, "qk_rope_dim": 2, "v_dim": 1},
        },
        {  # a unit of d_ff costs too much
            "family": "polychromatic",
            "d_model": 4,
            "head_dim": 2,
            "n_heads": 1,
            "polychromatic": {"gate_width": 4},
        },
    ],
)
def test_a_model_that_no_width_matches_is_refused_in_one_line(recipe):
    shape = dict(vocab_size=8, d_model=32, n_layers=1, n_heads=4, n_kv_heads=1, head_dim=8, d_ff=3)
    with pytest.raises(UserError, match=r"no vanilla model matches this \w+ model's [\d,]+ parameters") as refused:
        vanilla_twin(ModelRecipe.model_validate({**shape, **recipe}))
    assert "\n" not in str(refused.value)
