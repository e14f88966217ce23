"""A portable checkpoint as an lm-eval model: scores continuations, scores whole texts, generates until a stop string.

Three rules hold whatever the batch. A row's result does not depend on the rows beside it: scored rows are padded
on the right, where a causal model does not look, and a model that does gets its rows one by one. Every token of
a scored text is predicted exactly once, from at most `max_seq_len` tokens before it. Text never turns into special
tokens: only a `ChatPrompt`, built here from messages, carries them, as ids made beside its text and not from it.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from athanor.core.errors import UserError
from athanor.core.progress import Progress, silent
from athanor.core.runtime import Runtime
from athanor.data.chatml import answer_ends, encode_prompt, render_prompt
from athanor.data.tokenizer import Tokenizer, load_tokenizer
from athanor.models.checkpoints.portable import load_portable
from athanor.models.decoding.cuts import Cuts
from athanor.models.decoding.generate import stream_text
from athanor.models.decoding.sampling import Sampling
from athanor.models.device import choose_device, choose_precision, set_up
from athanor.models.skeleton import LanguageModel

LOGITS_AT_ONCE = 1 << 26  # values held while scoring: 256 MiB of fp32 whatever the vocabulary
DEFAULT_NEW_TOKENS = 256  # lm-eval's own default
SETTINGS = frozenset({"until", "do_sample", "temperature", "top_k", "top_p", "min_p", "max_gen_toks"})

T = TypeVar("T")
R = TypeVar("R")
Ids = list[int]
Window = tuple[Ids, Ids]  # tokens read, tokens scored: the last len(scored) predictions


class ChatPrompt(str):
    """A rendered conversation that carries its own token ids.

    lm-eval hands prompts around as strings, and a string in which a user wrote `<|im_start|>` looks like one in
    which the template did. The ids are made from the messages, so the two stay apart.
    """

    ids: Ids

    def __new__(cls, text: str, ids: Ids) -> ChatPrompt:
        prompt = super().__new__(cls, text)
        prompt.ids = ids
        return prompt


@dataclass(frozen=True)
class Decoding:
    """How a prompt is continued; prompts of one batch share it."""

    stops: tuple[str, ...]
    stop_ids: tuple[int, ...]
    new_tokens: int
    sampling: Sampling


class HarnessLM(LM):
    """An lm-eval model over a `LanguageModel` and its tokenizer. Results come in the order of the requests."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        batch_rows: int,
        precision: torch.dtype = torch.float32,
        seed: int = 0,
        progress: Progress = silent,
        max_cut_fraction: float = 1.0,
    ):
        super().__init__()
        self.cuts = Cuts(max_cut_fraction)
        self.model = model.eval()
        self.tokenizer = tokenizer
        # Where a new token changes what earlier ones computed, decoding cannot be cached and padding is seen.
        self._batch_rows = batch_rows if model.cacheable else 1
        self._precision = precision
        self._seed = seed
        self._progress = progress
        self._device = model.embedding.weight.device
        self._max_tokens = model.recipe.max_seq_len

    @classmethod
    def open(
        cls,
        folder: Path,
        runtime: Runtime,
        *,
        seed: int = 0,
        progress: Progress = silent,
        max_cut_fraction: float = 1.0,
    ) -> HarnessLM:
        """The model of a portable checkpoint, computing as `runtime` says. Raises UserError."""
        device = choose_device(runtime.device)
        set_up(runtime)
        return cls(
            load_portable(folder, str(device)),
            load_tokenizer(folder),
            batch_rows=runtime.eval_batch_rows,
            precision=choose_precision(runtime.precision, device),
            seed=seed,
            progress=progress,
            max_cut_fraction=max_cut_fraction,
        )

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint."""
        return self.tokenizer.fingerprint

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> ChatPrompt:
        """The conversation as a prompt. Without `add_generation_prompt` the last message, the assistant's, goes on."""
        begun = "" if add_generation_prompt else chat_history[-1]["content"]
        messages = chat_history if add_generation_prompt else chat_history[:-1]
        ids = encode_prompt(messages, self.tokenizer) + self.tokenizer.encode(begun)
        return ChatPrompt(render_prompt(messages) + begun, ids)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Per (context, continuation): natural log-probability, and whether greedy decoding would give it."""
        pairs = [self._encode_pair(*request.args) for request in requests]
        for request, (context, continuation) in zip(requests, pairs, strict=True):
            read, _ = next(scoring_windows(context, continuation, self._max_tokens), (context, []))
            beyond = len(context) + min(len(continuation), self._max_tokens) - 1 - len(read)
            self._note_cut(request.args[0], context, max(0, beyond))
        self.cuts.judge(self._max_tokens)
        return self._score(pairs)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Per (text,): natural log-probability of the whole text after EOS, however long it is."""
        pairs = [([self.tokenizer.eos_id], self.tokenizer.encode(request.args[0])) for request in requests]
        return [log_probability for log_probability, _ in self._score(pairs)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Per (prompt, settings, see SETTINGS): the text before the first stop string.

        A prompt too long for the answer loses its beginning, but never more than leaves half of `max_seq_len`.
        Raises UserError for a decoding setting it does not know, and where too many prompts are cut.
        """
        answers = [""] * len(requests)
        prompts = [self._encode_context(request.args[0]) for request in requests]
        alike: dict[Decoding, list[int]] = defaultdict(list)
        for row, request in enumerate(requests):
            decoding = self._decoding(*request.args)
            alike[decoding].append(row)
            cut_tokens = max(0, len(prompts[row]) - self._kept(decoding))
            self._note_cut(request.args[0], prompts[row], cut_tokens)
            room = self._max_tokens - (len(prompts[row]) - cut_tokens)
            self.cuts.short_answers += room < decoding.new_tokens
        self.cuts.judge(self._max_tokens)
        done = 0
        for group, (decoding, rows) in enumerate(alike.items()):
            rows.sort(key=lambda row: -len(prompts[row]))
            seed = Random(f"{self._seed}/{group}").getrandbits(63)
            for row, text in self._in_batches(rows, partial(self._answer, prompts, decoding, seed)):
                answers[row] = text
                done += 1
                self._progress(done, len(requests), "prompts")
        return answers

    def _in_batches(
        self, items: Sequence[T], compute: Callable[[Sequence[T], int], Sequence[R]]
    ) -> Iterator[tuple[T, R]]:
        """Each item with what comes of it, in order, by `compute(batch, place of its first)`. Batches that do not fit
        the device's memory are halved from then on. UserError where a single item does not fit."""
        start = 0
        while start < len(items):
            batch = items[start : start + self._batch_rows]
            try:
                found = compute(batch, start)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise UserError(
                        "out of device memory with one row: use a larger device, or a smaller model.max_seq_len"
                    ) from None
                self._batch_rows = (len(batch) + 1) // 2
                gc.collect()
                torch.cuda.empty_cache()
                continue
            yield from zip(batch, found, strict=True)
            start += len(batch)

    def _kept(self, decoding: Decoding) -> int:
        """Tokens at the end of a prompt that are read."""
        return max(self._max_tokens - decoding.new_tokens, self._max_tokens // 2)

    def _note_cut(self, prompt: str, ids: Ids, cut_tokens: int) -> None:
        self.cuts.note(len(ids), cut_tokens)
        if cut_tokens:
            self.cuts.read[prompt] = self.tokenizer.decode(ids[cut_tokens:]), cut_tokens

    def _encode_context(self, context: str) -> Ids:
        ids = context.ids if isinstance(context, ChatPrompt) else self.tokenizer.encode(context)
        return ids or [self.tokenizer.eos_id]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        """Both parts' ids. Plain text is tokenized whole and split where its ids leave those of the context alone,
        so that the continuation is tokenized as it would be in running text; spaces between belong to it."""
        if isinstance(context, ChatPrompt):
            return context.ids, self.tokenizer.encode(continuation)
        bare = context.rstrip()
        whole = self.tokenizer.encode(context + continuation)
        split = _common_length(self.tokenizer.encode(bare), whole)
        return whole[:split] or [self.tokenizer.eos_id], whole[split:]

    def _score(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Sum of log-probabilities, and whether all are greedy, of each pair's second part after its first."""
        windows = [
            (pair, window) for pair, ids in enumerate(pairs) for window in scoring_windows(*ids, self._max_tokens)
        ]
        windows.sort(key=lambda item: -len(item[1][0]))
        totals, greedy = [0.0] * len(pairs), [True] * len(pairs)
        scored = self._in_batches(windows, lambda batch, _: self._score_batch([window for _, window in batch]))
        for done, ((pair, _), (total, all_greedy)) in enumerate(scored, start=1):
            totals[pair] += total
            greedy[pair] &= all_greedy
            self._progress(done, len(windows), "rows")
        return list(zip(totals, greedy, strict=True))

    @torch.inference_mode()
    def _score_batch(self, windows: Sequence[Window]) -> list[tuple[float, bool]]:
        read = [len(inputs) for inputs, _ in windows]
        ids_BT = torch.tensor([w + [0] * (max(read) - len(w)) for w, _ in windows], device=self._device)
        position_T = torch.arange(max(read), device=self._device)
        stop_B1 = torch.tensor(read, device=self._device)[:, None]
        start_B1 = stop_B1 - torch.tensor([len(scored) for _, scored in windows], device=self._device)[:, None]
        with self._autocast():
            h_ND = self.model.hidden(ids_BT)[(start_B1 <= position_T) & (position_T < stop_B1)]
        targets_N = torch.tensor([i for _, scored in windows for i in scored], device=self._device)
        log_probability_N, greedy_N = self._judge(h_ND, targets_N)
        if not bool(torch.isfinite(log_probability_N).all()):
            raise UserError("the model's probabilities are not finite: it diverged in training; look at its loss")
        counts = [len(scored) for _, scored in windows]
        return [
            (float(log_probability.double().sum()), bool(greedy.all()))
            for log_probability, greedy in zip(log_probability_N.split(counts), greedy_N.split(counts), strict=True)
        ]

    def _judge(self, h_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Of each target: its log-probability (fp32), and whether it is the likeliest token."""
        rows = max(1, LOGITS_AT_ONCE // cast(int, self.model.recipe.vocab_size))
        log_probabilities, greedy = [], []
        for h_nD, target_n in zip(h_ND.split(rows), targets_N.split(rows), strict=True):
            with self._autocast():
                logits_nV = self.model.logits(h_nD)
            log_probability_nV = logits_nV.float().log_softmax(-1)
            log_probabilities.append(log_probability_nV.gather(1, target_n[:, None])[:, 0])
            greedy.append(log_probability_nV.argmax(-1) == target_n)
        return torch.cat(log_probabilities), torch.cat(greedy)

    def _answer(
        self, prompts: list[Ids], decoding: Decoding, seed: int, rows: Sequence[int], first_row: int
    ) -> list[str]:
        """Continuations of some prompts, the first of which has the place `first_row` among all that `seed` samples."""
        kept = self._kept(decoding)
        texts = [""] * len(rows)
        with self._autocast():
            for row, piece in stream_text(
                self.model,
                self.tokenizer,
                [prompts[row][-kept:] for row in rows],
                max_new_tokens=decoding.new_tokens,
                stops=decoding.stops,
                stop_ids=decoding.stop_ids,
                sampling=decoding.sampling,
                seed=seed,
                first_row=first_row,
            ):
                texts[row] += piece
        return texts

    def _decoding(self, prompt: str, settings: dict[str, Any]) -> Decoding:
        """lm-eval's generation settings as ours; a chat answer ends at its end tag as well."""
        given = cast(dict[str, Any], normalize_gen_kwargs(settings, DEFAULT_NEW_TOKENS))
        unknown = sorted(set(given) - SETTINGS)
        if unknown:
            raise UserError(f"generation_kwargs {unknown[0]}: not supported; known are {', '.join(sorted(SETTINGS))}")
        ends, end_ids = answer_ends(self.tokenizer) if isinstance(prompt, ChatPrompt) else ((), ())
        return Decoding(
            stops=(*given["until"], *ends),
            stop_ids=end_ids,
            new_tokens=given["max_gen_toks"],
            sampling=Sampling(
                temperature=given.get("temperature", 1.0) if given["do_sample"] else 0.0,
                top_k=given.get("top_k"),
                top_p=given.get("top_p"),
                min_p=given.get("min_p"),
            ),
        )

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32)


def scoring_windows(context: Ids, continuation: Ids, max_tokens: int) -> Iterator[Window]:
    """Cuts a continuation into windows of at most `max_tokens` inputs that together score each token once.

    The first keeps the end of `context`, which is not empty; every window reads as much of what precedes its
    scored tokens as fits.
    """
    tokens = context + continuation
    for start in range(len(context), len(tokens), max_tokens):
        stop = min(start + max_tokens, len(tokens))
        yield tokens[max(0, stop - 1 - max_tokens) : stop - 1], tokens[start:stop]


def _common_length(left: Ids, right: Ids) -> int:
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
