"""What an optimizer is told of a model's parameters."""

from athanor.models.build import build_model

EXEMPT = {"swa_mla": ("embedding.weight",)}  # from weight decay, besides what every family spares


def test_weight_decay_spares_gains_biases_alpha_and_beta_and_each_parameter_is_optimized_once(mode, tiny_recipe):
    model = build_model(tiny_recipe(mode))
    decayed, kept = model.parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    listed = [names[id(p)] for p in decayed["params"] + kept["params"]]
    assert sorted(listed) == sorted(names.values())
    spared = {names[id(p)] for p in kept["params"]}
    exempt = ("gain", "bias", "alpha", "beta", *EXEMPT.get(model.recipe.family, ()))
    assert spared == {n for n in names.values() if n.endswith(exempt)}
