"""What was chosen, as the fields of a preset, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from athanor.core.numbers import compact, number, size
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.epochs import MOST_EPOCHS
from athanor.flows.fitting.counted import Counted
from athanor.flows.fitting.given import Given
from athanor.flows.fitting.page import Choice
from athanor.flows.fitting.shapes import with_steps
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.acquire import LEAST_HELD_OUT_BYTES
from athanor.tasks.cost import bytes_per_token

TOKENS_PER_PARAMETER = 10.0  # at the compute of minutes (Hoffmann et al. 2022, appendix D.3); 20 at that of weeks
SEEN = 200  # times that the text has a token of the vocabulary, on average, at least
EMBEDDING_SHARE = 0.3  # of the parameters, at most
BATCH, SMALLEST_BATCH = 4096, 1024  # tokens
MOST_STEPS, FEW_STEPS, LEAST_STEPS = 4000, 100, 20
WARMUP_STEPS, WARMUP_SHARE = 20, 0.1  # of the steps, where that is more
PEAK_LR, LR_WIDTH = 3e-3, 128  # falls as the width grows, to about GPT-3's 6e-4 at 768
CHAT_LR = 1 / 3  # of the rate of pretraining
HELD_OUT_BYTES = 100_000  # of a source
LEAST_HELD_OUT_MARGIN = 1.25
TOKENIZER_BYTES = 2_000_000
MAP_TOKENS = 4096
EVALUATED_DOCUMENTS = 64  # of a source
EVALUATION_SHARE = 0.06  # of a training's tokens, in each of its evaluations


@dataclass(frozen=True)
class Length:
    """Of a training: steps of so many tokens, in rows of so many."""

    steps: int
    batch_tokens: int
    seq_len_tokens: int

    @classmethod
    def of(cls, tokens: float, seq_len_tokens: int) -> Length:
        """In batches of BATCH; in larger ones above MOST_STEPS, in smaller ones below FEW_STEPS."""
        batch = max(BATCH, seq_len_tokens)
        while tokens / batch > MOST_STEPS:
            batch *= 2
        while tokens / batch < FEW_STEPS and batch > max(SMALLEST_BATCH, seq_len_tokens):
            batch //= 2
        return cls(max(1, int(tokens / batch)), batch, seq_len_tokens)

    @property
    def tokens(self) -> int:
        """Of all steps."""
        return self.steps * self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        """A tenth, but as many as a small model needs; half of very few."""
        return min(self.steps // 2, max(WARMUP_STEPS, round(WARMUP_SHARE * self.steps)))


@dataclass(frozen=True)
class Chosen:
    """All that decides a preset. `model` has its vocabulary; `most_bytes` is how much of a source is read, where not
    all; `chat` and `chat_length` come together."""

    sources: Mapping[str, Given]
    most_bytes: Mapping[str, int]
    chat: Given | None
    counted: Counted
    model: ModelRecipe
    parameters: int
    tokens_per_s: float
    speed: str  # how that is known
    length: Length
    chat_length: Length | None

    @property
    def text_bytes(self) -> float:
        """Of what is read of the sources."""
        return sum(min(given.text_bytes, self.most_bytes.get(name, math.inf)) for name, given in self.sources.items())

    @property
    def choices(self) -> list[Choice]:
        """Every field that the preset gives, in order."""
        return [*self._data(), *self._tokenizer(), *self._model(), *self._pretrain(), *self._sft(), *self._rest()]

    def _data(self) -> Iterator[Choice]:
        yield Choice("description", f"{self.model.family} on {' and '.join(self.sources)}")
        for name, given in self.sources.items():
            fields, most = {**given.fields, "held_out_fraction": held_out_fraction(given.text_bytes)}, ""
            if name in self.most_bytes:
                fields["max_bytes"] = self.most_bytes[name]
                most = f" Reading all of it would take too long: the first {size(self.most_bytes[name])} are read."
            why = f"{size(given.text_bytes)} of text; a share is kept out of training, to judge the model by.{most}"
            yield Choice(f"data.sources.{name}", fields, why)
        whole = sum(given.text_bytes for given in self.sources.values())
        shares = {name: max(0.0001, round(given.text_bytes / whole, 4)) for name, given in self.sources.items()}
        why = "Each source in proportion to its length: all are read equally often."
        yield Choice("data.mixture.start", shares, why)

    def _tokenizer(self) -> Iterator[Choice]:
        tokens, each = self.text_bytes / self.counted.bytes_per_token, number(self.counted.bytes_per_token)
        why = (
            f"The text has {compact(tokens)} tokens then, of {each} bytes: on average each of the vocabulary occurs "
            f"{SEEN} times or more, and its vectors are less than {EMBEDDING_SHARE:.0%} of the model."
        )
        yield Choice("tokenizer.vocab_size", self.counted.vocab_size, why)
        yield Choice(
            "tokenizer.train_bytes",
            int(min(TOKENIZER_BYTES, max(1000, self.text_bytes))),
            "As much text as is learned from in seconds.",
        )

    def _model(self) -> Iterator[Choice]:
        recipe = with_steps(self.model, self.length.steps)
        fields = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        section = fields.pop(recipe.family, None)
        why = {
            "d_model": self._why_this_size(),
            "max_seq_len": "The longest row that it is trained on.",
        }
        for name, value in fields.items():
            if name != "vocab_size":
                yield Choice(f"model.{name}", value, why.get(name, ""))
        if section:
            yield Choice(f"model.{recipe.family}", section, "As in the quickstart of this family.")

    def _why_this_size(self) -> str:
        speed = f"It is trained on {compact(self.tokens_per_s)} tokens a second, {self.speed}."
        if self.length.tokens >= TOKENS_PER_PARAMETER * self.parameters:
            each = f"{TOKENS_PER_PARAMETER:g} tokens or more for each of them"
            return f"{self.parameters:,} parameters: the largest model that reads {each}. {speed}"
        each = number(self.length.tokens / self.parameters, 2)
        return (
            f"{self.parameters:,} parameters: the smallest model. It reads {each} tokens for each of them, where "
            f"{TOKENS_PER_PARAMETER:g} would be good: more time or more text would help. {speed}"
        )

    def _pretrain(self) -> Iterator[Choice]:
        length = self.length
        epochs = length.tokens * self.counted.bytes_per_token / self.text_bytes
        limit = "which is what the time allows"
        if length.tokens + length.batch_tokens > worth_reading_tokens(self.counted, self.text_bytes):
            limit = "as often as is worth it: more text would help, more time would not"
        why = f"{compact(length.tokens)} tokens: all of the text {number(epochs, 2)} times, {limit}."
        yield Choice("pretrain.steps", length.steps, why)
        why = f"A document has {compact(self.counted.document_tokens)} tokens (median); longer rows take longer."
        yield Choice("pretrain.seq_len_tokens", length.seq_len_tokens, why)
        yield from self._course(
            "pretrain", length, 1.0, "Lower for wider models and smaller batches.", len(self.sources)
        )

    def _sft(self) -> Iterator[Choice]:
        chat, length = self.counted.conversations, self.chat_length
        if self.chat is None or chat is None or length is None:
            return
        source = {**self.chat.fields, "held_out_fraction": held_out_fraction(self.chat.text_bytes)}
        yield Choice("sft.source", source, f"{size(self.chat.text_bytes)} of conversations.")
        why = (
            f"{compact(length.tokens)} tokens: all of the conversations {number(length.tokens / chat.tokens, 2)} times."
        )
        yield Choice("sft.train.steps", length.steps, why)
        yield Choice("sft.train.seq_len_tokens", length.seq_len_tokens, "Hardly a conversation is longer.")
        yield from self._course("sft.train", length, CHAT_LR, "About a third of that of pretraining.", 1)

    def _course(self, field: str, length: Length, lr_share: float, why_lr: str, sources: int) -> Iterator[Choice]:
        """What follows from how long a training is."""
        of_batch = min(1.0, math.sqrt(length.batch_tokens / BATCH))
        lr = lr_share * PEAK_LR * min(1.0, LR_WIDTH / self.model.d_model) * of_batch
        eval_tokens = 2 ** int(min(14, max(10, math.log2(EVALUATION_SHARE * length.tokens / sources))))
        yield Choice(
            f"{field}.batch_tokens",
            length.batch_tokens,
            "Smaller where there would be few steps, larger where there would be thousands.",
        )
        yield Choice(f"{field}.peak_lr", float(f"{lr:.1e}"), why_lr)
        yield Choice(f"{field}.min_lr_fraction", 0.1)
        yield Choice(f"{field}.warmup_steps", length.warmup_steps)
        yield Choice(f"{field}.eval_every_steps", max(1, length.steps // 3), "Three looks at the held-out text.")
        yield Choice(f"{field}.eval_tokens", eval_tokens)

    def _rest(self) -> Iterator[Choice]:
        task = {"name": "bits_per_byte", "limit": EVALUATED_DOCUMENTS}
        why = "How well the held-out text is foretold. What else there is: `athanor tasks`"
        yield Choice("evaluate.tasks", {"bits-per-byte": task}, why)
        maps = {"tokens": MAP_TOKENS, "seq_len_tokens": min(256, self.length.seq_len_tokens)}
        yield Choice("interpret", maps, "A little text is enough to see what the architecture does.")


def held_out_fraction(text_bytes: float) -> float:
    """Share of a source that is HELD_OUT_BYTES, within a thousandth and a tenth; up to a quarter of short ones."""
    enough = LEAST_HELD_OUT_MARGIN * LEAST_HELD_OUT_BYTES / text_bytes
    fraction = min(0.1, max(0.001, HELD_OUT_BYTES / text_bytes))
    return math.ceil(1000 * min(0.25, max(fraction, enough))) / 1000


def worth_reading_tokens(counted: Counted, text_bytes: float) -> float:
    """Tokens of MOST_EPOCHS of the text that is trained on: as counted, and as plans count before there are tokens."""
    as_counted = MOST_EPOCHS * trained_bytes(text_bytes) / counted.bytes_per_token
    return min(as_counted, planned_tokens(counted.vocab_size, text_bytes))


def planned_tokens(vocab_size: int, text_bytes: float) -> float:
    """Tokens of MOST_EPOCHS of the text that is trained on, as plans count."""
    return MOST_EPOCHS * trained_bytes(text_bytes) / bytes_per_token(TokenizerRecipe(vocab_size=vocab_size))


def trained_bytes(text_bytes: float) -> float:
    """Bytes of a source that are not held out."""
    return (1 - held_out_fraction(text_bytes)) * text_bytes
