"""Batches of a run: read ahead, and in slices that fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from athanor.core.errors import UserError
from athanor.tasks.trainer.process.world import ALONE
from athanor.tasks.trainer.start import read_spec
from athanor.tasks.trainer.step.batches import ReadAhead, build_loader, note_smaller_slices, slice_tokens


def test_ranks_that_ran_out_of_memory_try_half_the_slice_next_time(make_run):
    folder = make_run("run")
    spec, device = read_spec(folder), torch.device("cpu")
    assert slice_tokens(folder, spec, device, ALONE) == 4 * 32
    note_smaller_slices(folder, 4 * 32)
    assert slice_tokens(folder, spec, device, ALONE) == 2 * 32


def test_a_slice_is_no_more_than_a_rank_has(make_run, tmp_path):
    spec = read_spec(make_run("run", runtime={"micro_batch_rows": None, "ranks": 4}))
    world = SimpleNamespace(size=4, first=True, from_first=lambda value: value)
    assert slice_tokens(tmp_path, spec, torch.device("cpu"), world) == 2 * 32


SHORTER = [{"seq_len_tokens": 8, "until_fraction": 0.3}, {"seq_len_tokens": 16, "until_fraction": 0.5}]


def test_reading_ahead_gives_each_step_the_rows_of_its_phase(make_run):
    spec = read_spec(make_run("run", train={"length_phases": SHORTER}))
    loader = build_loader(spec)
    reader = ReadAhead(loader, 12, lambda step: range(loader.batch_rows(step)))
    shapes = [reader.batch(step).ids_BT.shape for step in (*range(2, 12), 0, 5)]
    reader.close()
    assert shapes == [(32, 8)] * 2 + [(16, 16)] * 2 + [(8, 32)] * 6 + [(32, 8), (16, 16)]


def test_phases_of_packed_conversations_are_refused(make_run, corpus):
    chat = {"objective": "sft", "shard_dirs": {"chat": str(corpus.root / "chat")}, "mixture": None}
    folder = make_run("run", train={"length_phases": SHORTER}, **chat)
    with pytest.raises(UserError, match=r"train\.length_phases: packed conversations"):
        build_loader(read_spec(folder))
