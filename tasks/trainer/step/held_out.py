"""Loss on held-out text during training.

    loss            nats per target token
    bits_per_byte   nats over the targets that stand for text / (ln 2 x the bytes they stand for)

Unlike the loss, bits per byte compare models with different tokenizers. Special tokens stand for no bytes and are left
out of them. These are bits per byte of *rows*: a document's first token is no target in them, and a row's end cuts what
follows off from what came before. The benchmark `bits_per_byte` reads whole documents and charges for every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from athanor.core.numbers import share
from athanor.core.targets import IGNORE
from athanor.data.loader import Batch
from athanor.kernels.cross_entropy import chunk_positions
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.start import token_bytes
from athanor.tasks.trainer.step.batches import held_out, rows_of
from athanor.tasks.trainer.train_recipe import RunSpec


class HeldOutText:
    """The held-out text of a run, by source, and how it is measured: `batch_rows` rows at once."""

    def __init__(self, spec: RunSpec, batch_rows: int, device: torch.device, autocast: AbstractContextManager):
        self._rows, self._token_bytes_V = held_out(spec, batch_rows), token_bytes(spec).to(device)
        self._device, self._autocast = device, autocast

    def __str__(self) -> str:
        said = [
            f"{source} {rows.read_tokens:,} of {rows.all_tokens:,} ({share(rows.read_tokens / rows.all_tokens)})"
            for source, rows in self._rows.items()
        ]
        return f"held-out tokens that an evaluation reads: {', '.join(said) or 'none'}"

    def measure(self, engine: Engine, stop_check: Callable[[], None] = lambda: None) -> dict[str, dict[str, float]]:
        """`evaluate` of each source, on all ranks alike. Training mode is left and entered again.

        `stop_check` is called before each batch and may raise.
        """

        def checked(batches: Iterable[Batch]) -> Iterator[Batch]:
            for batch in batches:
                stop_check()
                yield batch

        def compute(model: LanguageModel) -> dict[str, dict[str, float]]:
            return {
                source: evaluate(model, checked(rows.batches), self._token_bytes_V, self._autocast, self._device)
                for source, rows in self._rows.items()
            }

        engine.model.eval()
        try:
            return engine.compute(compute)
        finally:
            engine.model.train()


def evaluate(
    model: LanguageModel,
    batches: Iterable[Batch],
    token_bytes_V: torch.Tensor,
    autocast: AbstractContextManager,
    device: torch.device,
) -> dict[str, float]:
    """{loss, bits_per_byte, tokens} over the batches, noise off; call it without gradient. `token_bytes_V` is
    int64 on the device."""
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches:
        rows = rows_of(batch, 0, len(batch.ids_BT), device)
        with autocast:
            h_BTD = model.hidden(rows["ids_BT"], doc_start_BT=rows["doc_start_BT"])
            counted_BT = rows["targets_BT"] != IGNORE
            target_N = rows["targets_BT"][counted_BT]
            nats_N = _nats(model, h_BTD[counted_BT], target_N)
        bytes_N = token_bytes_V[target_N]
        sums += torch.stack(
            [nats_N.sum(), (nats_N * (bytes_N > 0)).sum(), bytes_N.sum(), torch.ones_like(nats_N).sum()]
        )
    nats, text_nats, text_bytes, tokens = sums.tolist()
    return {
        "loss": nats / max(1.0, tokens),
        "bits_per_byte": text_nats / (math.log(2) * max(1.0, text_bytes)),
        "tokens": int(tokens),
    }


def _nats(model: LanguageModel, h_ND: torch.Tensor, target_N: torch.Tensor) -> torch.Tensor:
    size = chunk_positions(model.recipe.vocab_size or 1, h_ND.device)
    parts = [
        F.cross_entropy(model.logits(h_nD).float(), target_n, reduction="none").double()
        for h_nD, target_n in zip(h_ND.split(size), target_N.split(size), strict=True)
    ]
    return torch.cat(parts) if parts else h_ND.new_zeros(0, dtype=torch.float64)
