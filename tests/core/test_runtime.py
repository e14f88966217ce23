"""Settings of the machine: which go together."""

import pytest
from pydantic import ValidationError

from athanor.core.runtime import Runtime


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"engine": "single", "ranks": 2}, "engine=single is one process, but ranks=2"),
        ({"nodes": 2}, "nodes=2 needs rendezvous=HOST:PORT"),
        ({"rendezvous": "here:1"}, "rendezvous=here:1 is for several machines"),
        ({"zero_stage": 2}, "zero_stage=2 needs engine=deepspeed, not engine=auto"),
        ({"engine": "fsdp", "offload": "optimizer"}, "offload=optimizer needs engine=deepspeed, not engine=fsdp"),
        ({"engine": "deepspeed", "offload": "parameters"}, "offload=parameters needs zero_stage=3, not zero_stage=2"),
    ],
)
def test_impossible_combinations_name_their_fields(fields, named):
    with pytest.raises(ValidationError, match=named):
        Runtime(**fields)


def test_one_rank_is_one_process_and_more_are_ddp():
    assert Runtime().training_engine == "single"
    assert Runtime(ranks=2).training_engine == "ddp"
    assert Runtime.model_validate(Runtime(ranks=2).model_dump()) == Runtime(ranks=2)


def test_devices_are_gpus_one_for_each_rank_or_machines_without():
    runtime = Runtime(ranks=4, nodes=2, rendezvous="a:1")
    assert (runtime.devices("cuda"), runtime.devices("cpu"), Runtime(ranks=2).devices("cpu")) == (8, 2, 1)
