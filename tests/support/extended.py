"""What `docs/extending.md` says its examples do, tried where they are: in a copy of the repository that has them.

`tests/test_extending.py` runs it there. One small run trains with all of them, and is asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from task_runs import ended_task_runs

from athanor.core.store import Artifact, Store
from athanor.flows.data import data_flow
from athanor.flows.plan.plan import Plan, make_plan
from athanor.flows.presets.preset import load_preset
from athanor.flows.pretrain import pretrain_flow
from athanor.models.checkpoints.portable import load_portable
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.tasks.cost import STARTUP_S
from athanor.tasks.trainer.course.schedules.kind import lr_fraction
from athanor.tasks.trainer.optimizers.kind import OPTIMIZERS

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "extending.md"
SMALL = (
    "model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=16",
    "model.d_ff=64", "data.sources.math.max_documents=300", "data.sources.stem.max_documents=6",
    "data.sources.code.max_documents=20", "tokenizer.vocab_size=400", "tokenizer.train_bytes=50000",
    "pretrain.steps=3", "pretrain.batch_tokens=512", "pretrain.warmup_steps=1", "pretrain.eval_every_steps=3",
    "pretrain.eval_tokens=512", 'runtime.wandb="off"', "runtime.device=cpu", "runtime.threads=1",
)  # fmt: skip


@dataclass
class Made:
    """What came of the run: its plan, the states of its tasks by name the first and the second time, its artifacts."""

    plan: Plan
    states: list[dict[str, str]]
    artifacts: dict[tuple[str, str], Artifact]


def write_presets(folder: Path) -> Path:
    """Write the presets of the page, each extending the one before it, and return the last; each loads as it stands."""
    last = "quickstart"
    for number, block in enumerate(
        re.findall(r"^```yaml [^\n]*\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    ):
        file = folder / f"mine-{number}.yaml"
        file.write_text(block)
        load_preset(str(file))
        file.write_text(block.replace("extends: quickstart", f"extends: {last}"))
        last = str(file)
    return Path(last)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Made]:
    preset = load_preset(str(write_presets(tmp_path_factory.mktemp("presets"))), SMALL)
    states = []
    with pytest.MonkeyPatch.context() as patch, prefect_test_harness(server_startup_timeout=120):
        patch.setenv("ATHANOR_HOME", str(tmp_path_factory.mktemp("home")))
        plan = make_plan(preset)
        with get_client(sync_client=True) as client:
            for _ in range(2):
                ended = [flow(preset, return_state=True) for flow in (pretrain_flow, data_flow)]
                assert all(state.is_completed() for state in ended), ended
                flows = {state.state_details.flow_run_id for state in ended}
                names = {
                    f"{found.stage} {found.artifact.label}"
                    for found, _ in plan.stages
                    if found.record.part in ("data", "pretrain") and not found.wanted.on_request
                }
                states.append({run.name: run.state_name for run in ended_task_runs(client, flows, names)})
        artifacts = {(artifact.stage, artifact.label): artifact for artifact in Store().artifacts()}
    yield Made(plan, states, artifacts)


def test_the_optimizer_trains_with_its_own_defaults(made):
    train = made.plan.preset.pretrain
    assert (train.optimizer, train.beta1, train.beta2, train.weight_decay) == ("sign-sgd", 0.9, None, 1.0)
    facts = made.artifacts["pretrain", "average"].facts
    assert facts["steps"] == 3
    _, memory = made.plan.memory
    assert memory.optimizer_bytes == pytest.approx(memory.weights_bytes)
    assert OPTIMIZERS["sign-sgd"].sharded_by == ("fsdp",)


def test_the_source_is_planned_and_acquired(made):
    facts = made.artifacts["acquire", "code"].facts
    assert (facts["documents"], facts["rejected"]) == (20, 0)
    assert [estimate.wall_s for found, estimate in made.plan.stages if found.artifact.label == "code"]


def test_the_stage_is_planned_with_its_cost_built_and_then_cached(made):
    (estimate,) = [estimate for found, estimate in made.plan.stages if found.stage == "frequencies"]
    assert estimate.source == "assumed" and STARTUP_S < estimate.wall_s < STARTUP_S + 1
    assert [states[f"frequencies {made.plan.preset.name}"] for states in made.states] == ["Completed", "Cached"]
    assert set(made.states[1].values()) == {"Cached"}
    artifact = made.artifacts["frequencies", made.plan.preset.name]
    shards = made.artifacts["tokenize", "code"]
    assert artifact.facts["code"] == shards.facts["train_tokens"]
    assert artifact.file("frequencies.svg").stat().st_size > 1000


def test_the_family_is_counted_planned_trained_and_loaded(made):
    model = load_portable(made.artifacts["pretrain", "average"].path)
    counts = parameter_counts(model.recipe)
    assert (model.recipe.family, counts["attention"], counts["ffn"]) == ("average", 2 * 3 * 32 * 32, 2 * 3 * 32 * 64)
    assert flops_per_token(model.recipe, 128).forward == 2 * (counts["total"] - counts["norms"])
    assert model.cache_bytes_per_token(64) == 2 * 4 * 32 / 64


def test_the_schedule_falls_by_the_square_root(made):
    recipe = made.plan.preset.pretrain.model_copy(update={"steps": 100, "decay_fraction": 0.5, "min_lr_fraction": 0.0})
    assert [lr_fraction(recipe, step) for step in (49, 50, 75)] == pytest.approx([1.0, 1.0, 1 - 0.5**0.5])
    assert recipe.schedule == "square-root"


def test_the_observer_tells_the_summary(made):
    model = load_portable(made.artifacts["pretrain", "average"].path)
    norm = sum(float(parameter.detach().square().sum()) for parameter in model.parameters()) ** 0.5
    assert made.artifacts["pretrain", "average"].facts["weight_norm"] == pytest.approx(norm)
