"""What an engine refuses before it is built."""

import pytest

from athanor.core.errors import UserError
from athanor.tasks.trainer.engines.build import check_world
from athanor.tasks.trainer.process.world import ALONE, World
from athanor.tasks.trainer.start import read_spec


def test_a_batch_that_ranks_cannot_share_is_refused(make_run):
    spec = read_spec(make_run("run", runtime={"ranks": 3}))
    with pytest.raises(UserError, match=r"batch_tokens=256 are 8 rows, which 3 ranks .* a multiple of 96"):
        check_world(spec.runtime, spec.train, World(size=3))
    with pytest.raises(UserError, match="ask for 3 ranks, but the launcher started 1"):
        check_world(spec.runtime, spec.train, ALONE)


@pytest.mark.parametrize(("engine", "optimizer"), [("fsdp", "adafactor"), ("deepspeed", "muon")])
def test_an_optimizer_that_an_engine_cannot_shard_is_refused(make_run, engine, optimizer):
    spec = read_spec(make_run("run", train={"optimizer": optimizer}, runtime={"engine": engine, "ranks": 2}))
    with pytest.raises(UserError, match=f"engine={engine} shards what optimizer={optimizer} needs whole"):
        check_world(spec.runtime, spec.train, World(size=2))
