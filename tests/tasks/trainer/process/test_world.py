"""Ranks: which rows are whose, and what one of them alone does."""

from __future__ import annotations

import torch

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
