"""Ranks: which rows are whose, and what one of them alone does."""

from __future__ import annotations

import pytest
import torch

from athanor.models.device import choose_device
from athanor.tasks.trainer.process.world import ALONE, World


def test_the_slots_of_the_ranks_are_equal_and_together_all():
    shares = [World(rank=rank, size=3).slots(12) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert [slot for share in shares for slot in share] == list(range(12))


def test_alone_every_word_is_its_own():
    assert ALONE.first
    assert ALONE.from_first("a") == "a"
    assert ALONE.gather("a") == ["a"]
    assert ALONE.sum(torch.tensor(3)) == 3


def test_the_place_is_what_the_launcher_says(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.of_launcher() == ALONE
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert World.of_launcher() == World(rank=5, size=8, local_rank=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_on_a_gpu_takes_the_gpu_of_its_place_before_it_meets_the_others(monkeypatch, rank):
    done = []
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda number: done.append(number), raising=False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: done.append(backend))
    World(rank, 2, rank).meet(choose_device("auto", rank))
    assert done == [rank, "cpu:gloo,cuda:nccl"]


def pair(gathered, rank=0) -> World:
    """The world of one of two ranks, whose other says `gathered`."""

    class Pair(World):
        def gather(self, value):
            return [value, gathered] if self.first else [gathered, value]

    return Pair(rank, 2)


def test_what_fails_on_one_rank_is_raised_on_all():
    def fail():
        raise OSError(28, "No space left on device")

    theirs = OSError(28, "of the other")
    with pytest.raises(OSError, match="No space"):
        pair((1, None)).together(fail)
    with pytest.raises(OSError, match="of the other"):
        pair((None, theirs)).together(lambda: 1)
    with pytest.raises(OSError, match="No space"):
        ALONE.together(fail)
    assert pair((2, None)).together(lambda: 1) == [1, 2]


def test_only_the_first_does_what_the_first_is_to_do():
    called = []
    assert pair(("theirs", None), rank=1).by_first(lambda: called.append(1)) == "theirs"
    assert called == [] and ALONE.by_first(lambda: "mine") == "mine"
