"""What is done to blocks for memory and speed leaves their parameters and, but for rounding, their numbers."""

from functools import partial

import pytest
import torch

from athanor.core.runtime import Runtime
from athanor.models.build import build_model
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.step.block_transforms import FLOAT8_MULTIPLE, prepare_blocks, use_float8

SHAPE = {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16, "d_ff": 48}
FAMILIES = ("vanilla", "polychromatic", "swa_mla", "huginn", "hydra")
IDS = torch.arange(96).view(2, 48) % 63


def model(family: str, **section):
    extra = {"n_layers": 3, "n_kv_heads": 2, "huginn": {"prelude_layers": 1, "coda_layers": 1, "mean_recurrence": 2,
             "backprop_depth": 1}} if family == "huginn" else {}  # fmt: skip
    built = build_model(ModelRecipe.model_validate({"family": family, **SHAPE, **extra, **section}))
    built.init_weights(0)
    built.begin_step(1)
    return built.train()


def loss_and_gradients(subject) -> tuple[float, dict[str, torch.Tensor]]:
    loss = subject.loss(IDS, IDS.roll(-1, 1), row_key_B=torch.tensor([1, 2]))
    (loss.total / loss.tokens).backward()
    return loss.total.item(), {n: p.grad for n, p in subject.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_float8_rounds_the_products_and_keeps_the_parameters(family):
    plain, rounded = model(family), model(family)
    names = list(plain.state_dict())
    use_float8(rounded, emulate=True)
    assert list(rounded.state_dict()) == names
    one, gradients = loss_and_gradients(plain)
    other, rounded_gradients = loss_and_gradients(rounded)
    assert other == pytest.approx(one, rel=0.02)
    assert other != one
    assert gradients.keys() == rounded_gradients.keys()
    assert {tensor.dtype for tensor in rounded_gradients.values()} == {torch.float32}


def test_recomputed_blocks_drop_what_they_dropped_before():
    plain, recomputed = (model("swa_mla", swa_mla={"dropout": 0.3}) for _ in range(2))
    prepare_blocks(recomputed, Runtime(recompute_blocks=1))
    one, gradients = loss_and_gradients(plain)
    other, again = loss_and_gradients(recomputed)
    assert one == other != loss_and_gradients(model("swa_mla"))[0]
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)


@pytest.mark.parametrize("family", ["polychromatic", "hydra"])
def test_recomputed_blocks_count_once_in_the_diagnostics(family):
    plain, recomputed = model(family), model(family)
    prepare_blocks(recomputed, Runtime(recompute_blocks=1))
    found = []
    for subject in (plain, recomputed):
        loss = subject.loss(IDS, IDS.roll(-1, 1), row_key_B=torch.tensor([1, 2]))
        loss.total.backward()
        found.append(loss.tally.means(lambda totals: totals))
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(
    ("every", "passes"), [(None, [1, 1, 1, 1]), (1, [2, 2, 2, 2]), (2, [1, 2, 1, 2]), (3, [1, 1, 2, 1])]
)
def test_the_last_of_every_so_many_blocks_is_computed_again_in_training_alone(every, passes):
    subject = model("vanilla", n_layers=4)
    counts = [0] * 4
    for number, block in enumerate(subject.units()):
        block.ffn.register_forward_pre_hook(lambda *_, number=number: counts.__setitem__(number, counts[number] + 1))
    prepare_blocks(subject, Runtime(recompute_blocks=every))
    loss_and_gradients(subject)
    assert counts == passes
    counts[:] = [0] * 4
    subject.eval()
    loss_and_gradients(subject)
    assert counts == [1] * 4


def test_routers_are_not_rounded_even_where_their_widths_would_suit():
    subject = model("polychromatic", d_model=64)
    use_float8(subject, emulate=True)
    linear = {name: type(m).__name__ for name, m in subject.named_modules() if isinstance(m, torch.nn.Linear)}
    routers = [name for name in linear if "router" in name.split(".")]
    widths = [subject.get_submodule(name).weight.shape for name in routers]
    assert any(not any(width % FLOAT8_MULTIPLE for width in shape) for shape in widths)
    assert {linear[name] for name in routers} == {"Linear"}
    assert {linear[name] for name in linear.keys() - routers} == {"Float8Linear"}


def test_odd_widths_are_not_rounded():
    subject = model("vanilla", d_ff=50)
    use_float8(subject, emulate=True)
    ffn, attention = subject.blocks[0].ffn, subject.blocks[0].attention
    assert {type(m).__name__ for m in ffn.children()} == {"Linear"} and type(attention.out).__name__ == "Float8Linear"


@pytest.mark.slow
def test_every_block_of_a_deep_hydra_is_compiled_in_training_and_in_evaluation(monkeypatch):
    subject, compile_whole = model("hydra", n_layers=10, hydra={"recursions": 2}), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    monkeypatch.setattr(torch, "compile", partial(compile_whole, backend="eager", fullgraph=True))
    prepare_blocks(subject, Runtime(compile=True))
    loss_and_gradients(subject)
    with torch.no_grad():
        subject.eval().hidden(IDS)


@pytest.mark.slow
def test_blocks_compile_whole_and_compute_the_same_when_recomputed():
    plain, compiled = model("polychromatic"), model("polychromatic")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    prepare_blocks(compiled, Runtime(compile=True, recompute_blocks=1))
    one, gradients = loss_and_gradients(plain)
    other, compiled_gradients = loss_and_gradients(compiled)
    assert other == pytest.approx(one, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-4, atol=1e-6)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"], "a break leaves the whole block uncompiled"
