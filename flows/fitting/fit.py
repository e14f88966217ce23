"""Choosing a preset for this text, this machine and so many minutes.

What can be measured is not guessed: the text is read and counted (flows/fitting/counted.py), and a batch of each model
in question is timed, or its speed known from earlier runs (flows/plan/training_rate.py). The model is the largest that
reads TOKENS_PER_PARAMETER in the time left for training, no text more than MOST_EPOCHS times. What the other stages
take is what `athanor plan` says of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from athanor.core.errors import UserError
from athanor.core.numbers import duration, size
from athanor.core.runtime import Runtime
from athanor.core.store import Store
from athanor.flows.fitting.chosen import (
    EMBEDDING_SHARE,
    LEAST_STEPS,
    SEEN,
    TOKENS_PER_PARAMETER,
    Chosen,
    Length,
    planned_tokens,
    worth_reading_tokens,
)
from athanor.flows.fitting.counted import Counted, Counter
from athanor.flows.fitting.given import Given
from athanor.flows.fitting.page import fields_of
from athanor.flows.fitting.shapes import shapes
from athanor.flows.plan.estimate import TrainingEstimate
from athanor.flows.plan.machine import Machine
from athanor.flows.plan.plan import Plan, make_plan
from athanor.flows.plan.training_rate import training_rate
from athanor.models.counts import flops_per_token, parameter_counts
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.cost import STARTUP_S, TOKENIZE_BYTES_PER_S
from athanor.tasks.preset_recipe import Preset

PLANNED_SHARE = 0.85  # of the time: starting up is in no plan, and a step costs more than its products
LEAST_TRAINING_SHARE = 0.1  # of the time: with less, nearly all of it is the other stages'
READING_SHARE = 0.1  # of the time, for reading and tokenizing
CHAT_SHARE, CHAT_EPOCHS = 0.25, 3.0  # of the time for training, at most so many readings
VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
ROWS = {"cpu": (128, 256), "cuda": (256, 2048)}  # tokens, the shortest and the longest
CORRECTIONS = 3


@dataclass(frozen=True)
class Fit:
    """What is asked: a preset of this name, for the text, the conversations if any, a family, and so much time."""

    name: str
    sources: Mapping[str, Given]
    chat: Given | None
    family: str
    asked_s: float
    machine: Machine

    def chosen(self) -> Chosen:
        """The preset that fits. UserError where the time does not suffice for the stages beside training."""
        counter = Counter(self.sources, self.chat)
        smallest = self._model(next(shapes(self.family)), counter)
        train_s = self._training_s(self._plan(smallest))
        chosen = self._largest(smallest, counter, train_s)
        for _ in range(CORRECTIONS):  # a larger model makes the other stages slower, too
            over_s = self._plan(chosen).total_s - PLANNED_SHARE * self.asked_s
            if over_s <= 0:
                break
            train_s = max(train_s - over_s, 0.1 * train_s)
            chosen = self._read_for(chosen, train_s)
        if chosen.length.steps < LEAST_STEPS:
            raise UserError(self._too_little(chosen))
        return chosen

    def _too_little(self, chosen: Chosen) -> str:
        steps = f"it could take {chosen.length.steps} steps of {chosen.length.batch_tokens:,} tokens, too few to learn"
        if worth_reading_tokens(chosen.counted, chosen.text_bytes) < LEAST_STEPS * chosen.length.batch_tokens:
            return f"--from: {size(chosen.text_bytes)} of text are too little: {steps}; give more"
        return f"--minutes {self.asked_s / 60:g}: {steps}; give more minutes"

    def _training_s(self, trial: Plan) -> float:
        """What is left for training beside the stages that are the same whatever is trained."""
        trainings = [estimate for _, estimate in trial.stages if isinstance(estimate, TrainingEstimate)]
        others_s = trial.total_s - sum((training.wall_s or 0.0) - STARTUP_S for training in trainings)
        left_s = PLANNED_SHARE * self.asked_s - others_s
        if left_s < LEAST_TRAINING_SHARE * self.asked_s:
            least = others_s / (PLANNED_SHARE - LEAST_TRAINING_SHARE) / 60
            raise UserError(
                f"--minutes {self.asked_s / 60:g}: the stages beside training take about {duration(others_s)} here; "
                f"give --minutes {math.ceil(2 * least) / 2:g} or more"
            )
        return left_s

    def _largest(self, smallest: Chosen, counter: Counter, train_s: float) -> Chosen:
        """The largest model that reads enough; the smallest where none does."""
        chosen = self._read_for(smallest, train_s)
        for shape in list(shapes(self.family))[1:]:
            try:
                larger = self._read_for(self._model(shape, counter), train_s)
            except UserError:  # it takes too long to be timed
                break
            if larger.length.tokens < TOKENS_PER_PARAMETER * larger.parameters:
                break
            chosen = larger
        return chosen

    def _model(self, shape: ModelRecipe, counter: Counter) -> Chosen:
        """The shape with its vocabulary and its speed here, trained for a step. UserError where no speed is known."""
        counted = self._vocabulary(shape, counter)
        shortest, longest = ROWS[self.machine.device_type]
        row_tokens = min(longest, max(shortest, 2 ** math.ceil(math.log2(counted.document_tokens))))
        chat = counted.conversations
        longest_row = max(row_tokens, chat.row_tokens if chat is not None else 0)
        model = shape.model_copy(update={"vocab_size": counted.vocab_size, "max_seq_len": longest_row})
        flops = flops_per_token(model, row_tokens)
        length = Length.of(0.0, row_tokens)
        asked = (Store(), "pretrain", model, flops, row_tokens, self.machine, Runtime())
        rate = training_rate(*asked, lambda: length.batch_tokens // row_tokens)
        if rate is None:
            raise UserError(f"{self.machine.name}: no speed is known, and a batch of this model takes long to be timed")
        return Chosen(
            sources=self.sources,
            most_bytes=self._most_bytes(),
            chat=self.chat,
            counted=counted,
            model=model,
            parameters=parameter_counts(model)["total"],
            tokens_per_s=rate.flops_per_s / (flops.forward + flops.backward),
            speed=rate.source,
            length=length,
            chat_length=Length.of(0.0, chat.row_tokens) if chat is not None else None,
        )

    def _vocabulary(self, shape: ModelRecipe, counter: Counter) -> Counted:
        """The largest that the text and the model's size bear."""
        counted = counter.with_vocabulary(VOCABULARIES[0])
        text_bytes = sum(given.text_bytes for given in self.sources.values())
        for vocab_size in VOCABULARIES[1:]:
            parts = parameter_counts(shape.model_copy(update={"vocab_size": vocab_size}))
            seen = text_bytes / counted.bytes_per_token / vocab_size
            if parts["embedding"] > EMBEDDING_SHARE * parts["total"] or seen < SEEN:
                break
            counted = counter.with_vocabulary(vocab_size)
        return counted

    def _most_bytes(self) -> dict[str, int]:
        """Source -> what is read of it, where reading all the text takes more than READING_SHARE of the time."""
        whole = sum(given.text_bytes for given in self.sources.values())
        share = READING_SHARE * self.asked_s * TOKENIZE_BYTES_PER_S / whole
        return {name: int(share * given.text_bytes) for name, given in self.sources.items()} if share < 1 else {}

    def _read_for(self, chosen: Chosen, train_s: float) -> Chosen:
        """The same, trained for so long, or for as often as reading the text is worth it."""
        chat, chat_length, chat_tokens = chosen.counted.conversations, None, 0.0
        if chat is not None and self.chat is not None:
            planned = planned_tokens(chosen.counted.vocab_size, self.chat.planned_bytes)
            worth = min(CHAT_EPOCHS * chat.tokens, planned)
            chat_tokens = min(worth, CHAT_SHARE * train_s * chosen.tokens_per_s)
            chat_length = Length.of(chat_tokens, chat.row_tokens)
        in_time = train_s * chosen.tokens_per_s - chat_tokens
        tokens = min(in_time, worth_reading_tokens(chosen.counted, chosen.text_bytes))
        length = Length.of(tokens, chosen.length.seq_len_tokens)
        return replace(chosen, length=length, chat_length=chat_length)

    def _plan(self, chosen: Chosen) -> Plan:
        """UserError, one line for each reason, where it cannot be run."""
        plan = make_plan(Preset.model_validate({"name": self.name, **fields_of(chosen.choices)}))
        if plan.errors:
            raise UserError("\n".join(f"{finding.subject}: {finding.message}" for finding in plan.errors))
        return plan
