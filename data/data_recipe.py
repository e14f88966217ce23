"""Recipes of the data stages: where text comes from, how it is tokenized, in what proportion it is read.

Every model here is frozen and refuses unknown fields, because its canonical JSON is part of an artifact's
key. Fields that do not change the bytes of the result (devices, worker counts, prices) live in
`core.runtime` instead.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from athanor.core.kinds import Kinds, NameOf
from athanor.core.recipe import Recipe

BUILTIN_SOURCES: Kinds[Any] = Kinds("built-in source", "athanor.data.sources", "BUILTIN")
ORIGINS = ("builtin", "path", "hub")


class SourceRecipe(Recipe):
    """One source of documents. Exactly one origin: `builtin`, `path` or `hub`."""

    builtin: Annotated[str, NameOf(BUILTIN_SOURCES)] | None = Field(
        default=None, description="Text that needs nothing but Python itself; instead of `path` or `hub`"
    )
    path: str | None = Field(
        default=None,
        description="Local text: a file, folder or glob of .txt .md .rst .tex .py .jsonl .ndjson .json .csv .tsv "
        ".parquet, also as .gz .zst .bz2 .xz",
    )
    hub: str | None = Field(
        default=None, description="Hugging Face data set id, streamed; a gated one is opened by HF_TOKEN"
    )
    hub_config: str | None = Field(
        default=None, description="Configuration of the hub data set; none takes its default"
    )
    hub_revision: str | None = Field(
        default=None, description="Branch, tag or commit of the hub data set; none takes its newest"
    )
    split: str = Field(default="train", description="Split of the hub data set")
    text: str = Field(
        default="text",
        description="Field that holds the text of a record, or a template such as '{question}\\n{answer}'",
    )
    max_documents: int | None = Field(
        default=None, ge=1, description="Most documents to read; none reads them all, of a generated source its default"
    )
    max_bytes: int | None = Field(
        default=None, ge=1, description="Bytes of UTF-8 text after which reading stops; none reads it all"
    )
    held_out_fraction: float = Field(
        default=0.02,
        ge=0.0,
        lt=0.5,
        description="Share of the bytes kept out of training, in whole documents, to be evaluated on",
    )
    max_reject_fraction: float = Field(
        default=0.01,
        ge=0.0,
        le=1.0,
        description="Share of bad records above which reading fails",
    )
    seed: int = Field(default=0, ge=0, description="Seed of a generated source; others ignore it")

    @model_validator(mode="after")
    def _one_origin(self) -> SourceRecipe:
        given = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ORIGINS)}; got {', '.join(given) or 'none'}")
        return self

    @property
    def origin(self) -> str:
        """The one of ORIGINS that is given."""
        return next(name for name in ORIGINS if getattr(self, name) is not None)


class ChatSourceRecipe(SourceRecipe):
    """Conversations for SFT, in a form that is seen in the records, a field that is named, or by two templates."""

    messages: str = Field(
        default="messages",
        description="Field of a record that holds its conversation as [{role, content}, ...]; left as it is, "
        "conversations/from/value, prompt/completion and instruction/input/output are seen, too",
    )
    user: str | None = Field(
        default=None,
        description="Field or template of the user's turn, e.g. '{question}'; with `assistant`, instead of `messages`",
    )
    assistant: str | None = Field(
        default=None, description="Field or template of the assistant's turn, e.g. '{answer}'; comes with `user`"
    )

    @model_validator(mode="after")
    def _both_turns(self) -> ChatSourceRecipe:
        if (self.user is None) != (self.assistant is None):
            raise ValueError("user and assistant templates come together; one of them is missing")
        return self


class FilterRecipe(Recipe):
    """Which rows are noise, judged by their tokens alone: those beyond any threshold. Nothing is learned from them."""

    max_token_share: float = Field(default=0.6, gt=0, le=1, description="Largest share of a row that one token may be")
    min_entropy_nats: float = Field(
        default=1.5, ge=0, le=20, description="Smallest entropy of a row's token frequencies; at most ln of its length"
    )
    max_broken_share: float = Field(
        default=0.3, ge=0, le=1, description="Largest share of tokens that are U+FFFD or only a part of a character"
    )


class MixtureRecipe(Recipe):
    """Proportions of the sources by step: constant, then linear from `start` to `end` over the last part."""

    start: dict[str, float] = Field(description="Share of rows each source begins with, by its name; need not sum to 1")
    end: dict[str, float] | None = Field(
        default=None, description="Share of rows each source has at the last step; none keeps `start`"
    )
    anneal_fraction: float = Field(
        default=0.2, ge=0.0, le=1.0, description="Share of the steps, the last ones, over which `start` becomes `end`"
    )
    filter: FilterRecipe | None = Field(
        default=None, description="Which rows are noise that nothing is learned from; none learns from every row"
    )

    @model_validator(mode="after")
    def _weights(self) -> MixtureRecipe:
        for name, weights in (("start", self.start), ("end", self.end)):
            if weights is None:
                continue
            if any(w < 0 for w in weights.values()) or sum(weights.values()) <= 0:
                raise ValueError(f"mixture.{name}: weights must be >= 0 with a positive sum; got {weights}")
        if self.end is not None and set(self.end) != set(self.start):
            raise ValueError(f"mixture.start names {sorted(self.start)}, mixture.end names {sorted(self.end)}")
        return self


class DataRecipe(Recipe):
    """The pretraining text: named sources and their mixture."""

    sources: dict[str, SourceRecipe] = Field(
        description="Where the text comes from: a source for each name, e.g. math, stem, code"
    )
    mixture: MixtureRecipe = Field(
        description="In what proportion the sources are read, step by step; left out, in equal parts"
    )

    @model_validator(mode="before")
    @classmethod
    def _equal_parts(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and isinstance(fields.get("sources"), dict) and fields.get("mixture") is None:
            return {**fields, "mixture": {"start": dict.fromkeys(fields["sources"], 1.0)}}
        return fields

    @model_validator(mode="after")
    def _same_names(self) -> DataRecipe:
        if set(self.mixture.start) != set(self.sources):
            shares = ", ".join(f"{name}: 1" for name in self.sources)
            raise ValueError(
                f"data.mixture.start names {', '.join(self.mixture.start)}, but data.sources are "
                f"{', '.join(self.sources)}: give each source its share, such as mixture: {{start: {{{shares}}}}}, "
                "and take out one that is not to be read with `name: null`"
            )
        bad = [n for n in self.sources if not n.replace("-", "").replace("_", "").isalnum() or n != n.lower()]
        if bad:
            raise ValueError(f"source names are lower-case letters, digits, '-' and '_'; got {bad}")
        return self


class TokenizerRecipe(Recipe):
    """A tokenizer that is loaded (`path` or `hub`) or, with neither, trained on the sources."""

    path: str | None = Field(
        default=None, description="Tokenizer to load: a tokenizer.json, or a folder that holds one"
    )
    hub: str | None = Field(
        default=None, description="Tokenizer to load: the tokenizer.json of this Hugging Face model id"
    )
    hub_revision: str | None = Field(
        default=None, description="Branch, tag or commit of the hub model; none takes its newest"
    )
    vocab_size: int = Field(
        default=2048, ge=300, description="Tokens of a tokenizer that is trained; a loaded one has its own"
    )
    train_bytes: int = Field(
        default=8_000_000, ge=1000, description="Bytes of UTF-8 text a tokenizer is trained on, over all sources"
    )
    eos: str = Field(
        default="<|endoftext|>", description="Token that ends every document; a loaded tokenizer must have it"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerRecipe:
        if self.path is not None and self.hub is not None:
            raise ValueError("give tokenizer.path or tokenizer.hub, not both")
        return self
