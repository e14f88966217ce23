"""What a model could not read of its prompts: a prompt longer than its context loses its beginning.

lm-eval's own models cut in the same place and say nothing; a score on prompts without their question looks like any
other. So every cut is counted, what was read is kept, and too many are an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from athanor.core.errors import UserError
from athanor.core.numbers import share


@dataclass
class Cuts:
    """Of the prompts of a task. `read` holds those that were cut: the text that was read, and the tokens that were not.

    `short_answers` are prompts after which less than the asked room was left for the answer.
    """

    max_fraction: float = 1.0
    prompts: int = 0
    cut_prompts: int = 0
    prompt_tokens: int = 0
    cut_tokens: int = 0
    short_answers: int = 0
    read: dict[str, tuple[str, int]] = field(default_factory=dict)

    def note(self, length_tokens: int, cut_tokens: int) -> None:
        """Count a prompt of this length, of which so many tokens are not read."""
        self.prompts += 1
        self.prompt_tokens += length_tokens
        self.cut_prompts += cut_tokens > 0
        self.cut_tokens += cut_tokens

    def judge(self, max_tokens: int) -> None:
        """Raise UserError where more prompts are cut than may be."""
        if self.cut_prompts > self.max_fraction * self.prompts:
            raise UserError(
                f"{self}, more than max_cut_fraction={self.max_fraction:g}: the model reads {max_tokens} tokens; ask "
                "for fewer examples (num_fewshot) or a shorter answer (max_new_tokens), or allow it"
            )

    def facts(self) -> dict[str, int]:
        """The counts."""
        names = ("prompts", "cut_prompts", "prompt_tokens", "cut_tokens", "short_answers")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return cuts_text(self.facts())


def cuts_text(facts: dict[str, int]) -> str:
    """`12 of 200 prompts lost their beginning (31.0 % of all tokens)`, and what else was short."""
    said = []
    if cut := facts["cut_prompts"]:
        lost = share(facts["cut_tokens"] / facts["prompt_tokens"])
        said.append(f"{cut:,} of {facts['prompts']:,} prompts lost their beginning ({lost} of all tokens)")
    if short := facts["short_answers"]:
        said.append(f"{short:,} of {facts['prompts']:,} answers had less room than asked for")
    return "; ".join(said) or f"all {facts['prompts']:,} prompts were read whole"
