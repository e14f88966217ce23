"""What held-out text measures is what the model says of it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trainer_stop import Stop, StopWithin

from athanor.core.rows import read_rows
from athanor.data.loader import held_out_batches
from athanor.data.shards import TokenShards
from athanor.models.checkpoints.portable import load_portable
from athanor.models.families.vanilla.model import Vanilla
from athanor.tasks.trainer.process.exit_codes import Preempted
from athanor.tasks.trainer.run import train


def rows(folder, kind):
    return [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == kind]


def test_held_out_numbers_are_the_models_own(make_run, corpus):
    folder = make_run("run", train={"steps": 4})
    train(folder, Stop())
    row = rows(folder, "eval")[-1]
    model = load_portable(folder)
    bytes_V = torch.from_numpy(np.load(folder / "token_bytes.npy")).long()
    for source in ("one", "two"):
        nats, text_nats, text_bytes, tokens = 0.0, 0.0, 0, 0
        for batch in held_out_batches(TokenShards(corpus.root / source / "held_out"), 32, 256, 1):
            targets_T = torch.from_numpy(batch.targets_BT)[0]
            logits_TV = model(torch.from_numpy(batch.ids_BT), torch.from_numpy(batch.doc_start_BT))[0]
            for logits_V, target in zip(logits_TV, targets_T, strict=True):
                if target >= 0:
                    loss = F.cross_entropy(logits_V, target).item()
                    nats, tokens = nats + loss, tokens + 1
                    text_nats += loss if bytes_V[target] else 0.0
                    text_bytes += int(bytes_V[target])
        measured = row["held_out"][source]
        assert measured["tokens"] == tokens > 0
        assert measured["loss"] == pytest.approx(nats / tokens, rel=1e-5)
        assert measured["bits_per_byte"] == pytest.approx(text_nats / math.log(2) / text_bytes, rel=1e-5)
        assert text_nats < nats, "special tokens count in the loss and not in bits per byte"


def test_evaluation_is_done_outside_training_without_a_graph_and_training_goes_on(make_run, monkeypatch):
    seen = []
    hidden, loss = Vanilla.hidden, Vanilla.loss

    def look_evaluating(self, *arguments, **named):
        seen.append(("eval", self.training, torch.is_grad_enabled()))
        return hidden(self, *arguments, **named)

    def look_training(self, *arguments, **named):
        seen.append(("step", self.training, torch.is_grad_enabled()))
        return loss(self, *arguments, **named)

    monkeypatch.setattr(Vanilla, "hidden", look_evaluating)
    monkeypatch.setattr(Vanilla, "loss", look_training)
    train(make_run("run", train={"steps": 3, "eval_every_steps": 1}), Stop())
    assert set(seen) == {("eval", False, False), ("step", True, True)}
    assert seen[0][0] == seen[-1][0] == "eval"


def test_a_stop_is_taken_between_the_batches_of_an_evaluation(make_run):
    folder = make_run("run")
    with pytest.raises(Preempted):
        train(folder, StopWithin(places=2))
    assert rows(folder, "eval") == [], "it was not finished"
    train(folder, Stop())
    assert rows(folder, "eval")[0]["step"] == 0
