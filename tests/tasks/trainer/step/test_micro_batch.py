"""The micro-batch that is chosen is the largest that the memory estimate says will fit."""

from athanor.core.runtime import Runtime
from athanor.models.memory import USABLE_SHARE
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.step.micro_batch import memory_of, micro_batch_rows
from athanor.tasks.trainer.train_recipe import TrainRecipe

MODEL = ModelRecipe.model_validate(
    {"family": "polychromatic", "vocab_size": 512, "d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    | {"head_dim": 16, "d_ff": 128}
)
TRAIN = TrainRecipe.model_validate(
    {"steps": 10, "seq_len_tokens": 64, "batch_tokens": 64 * 64, "peak_lr": 1e-3, "optimizer": "lion"}
)


def test_ranks_that_shard_the_training_state_have_room_for_more_rows():
    deep = MODEL.model_copy(update={"n_layers": 16})
    room = memory_of(deep, TRAIN, Runtime(), "cuda", 3).total_bytes / USABLE_SHARE + 1

    def rows(**runtime):
        return micro_batch_rows(deep, TRAIN, Runtime(**runtime), "cuda", room, 8)

    assert rows(engine="ddp", ranks=8) == 3
    assert rows(engine="fsdp", ranks=8) > 3


def test_the_most_rows_that_fit_a_gpu_are_taken():
    runtime = Runtime()
    room = memory_of(MODEL, TRAIN, runtime, "cuda", 11).total_bytes / USABLE_SHARE + 1
    assert micro_batch_rows(MODEL, TRAIN, runtime, "cuda", room, 64) == 11
    assert micro_batch_rows(MODEL, TRAIN, runtime, "cuda", 1e12, 64) == 64
    assert micro_batch_rows(MODEL, TRAIN, runtime, "cuda", 1, 64) == 1


def test_recomputed_blocks_leave_room_for_more_rows():
    room = memory_of(MODEL, TRAIN, Runtime(), "cuda", 11).total_bytes / USABLE_SHARE + 1
    assert micro_batch_rows(MODEL, TRAIN, Runtime(recompute_blocks=1), "cuda", room, 64) > 11


def test_the_operator_has_the_last_word():
    assert micro_batch_rows(MODEL, TRAIN, Runtime(micro_batch_rows=3), "cuda", 1e12, 64) == 3
    assert micro_batch_rows(MODEL, TRAIN, Runtime(), "cuda", None, 64) == 1, "a GPU that nobody knows"
