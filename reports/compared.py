"""What is compared of runs, worked out once, for the table on a terminal and for the page.

Of run i, LETTERS[i] is the name and series i the colour wherever it is spoken of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from athanor.core.differences import differing
from athanor.core.numbers import UNKNOWN, compact, duration, money, number, whole
from athanor.core.text import one_line
from athanor.reports.canvas import LETTERS
from athanor.reports.curves import Curve
from athanor.reports.scores import Scores, scores_of

ROLES = {"pretrain": "pretraining", "sft": "fine-tuning"}
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs. What is not known any more, of a run that was deleted, is None or empty."""

    name: str
    stage: str
    state: str
    family: str
    parameters: int | None
    steps: int
    steps_planned: int
    tokens: int | None
    tokens_per_s: float | None
    """Of the middle one of its steps."""
    device_s: float | None
    usd: float | None
    """None where its time had no price."""
    curve: Curve
    averages: Mapping[int, float | None]
    """Step -> the exponential average of the loss up to there."""
    recipe: Mapping[str, Any]
    """The fields of its preset, as its own files and those of what it was made from have them."""
    tokenizer_sha256: str | None
    held_out_text: Mapping[str, str]
    """Source -> key of the documents."""
    made_by: Mapping[str, str]
    """`code` and packages -> version."""
    evaluations: Sequence[Mapping[str, Any]] = field(default=())
    """One `result.json` each, with its `items`; under `settings`, what fixes the items."""


def side_by_side(runs: Sequence[ComparedRun], keep: float) -> list[tuple[str, list[str]]]:
    """Rows of a table: what it is, and that of every run. `keep` is what `averages` keep of themselves at each step."""
    reached = sorted({step for run in runs for step in run.averages})
    common = [step for step in reached if sum(step in run.averages for run in runs) > 1]
    sources = sorted({source for run in runs for source in run.curve.held_out})
    return [
        ("parameters", [compact(run.parameters) for run in runs]),
        ("state", [run.state for run in runs]),
        ("steps done", [whole(run.steps) for run in runs]),
        ("tokens", [compact(run.tokens) for run in runs]),
        *((f"loss, EMA {keep}, step {step:,}", [_average(run, step) for run in runs]) for step in common),
        *((f"best bits/byte, {source}", [_best(run, source) for run in runs]) for source in sources),
        ("tokens per second", [compact(run.tokens_per_s) for run in runs]),
        ("device time", [duration(run.device_s) for run in runs]),
        ("cost", [money(run.usd) for run in runs]),
    ]


def _average(run: ComparedRun, step: int) -> str:
    return number(run.averages[step], 4) if step in run.averages else UNKNOWN


def _best(run: ComparedRun, source: str) -> str:
    measured = run.curve.held_out.get(source)
    best = measured.best if measured is not None else None
    return UNKNOWN if measured is None or best is None else number(float(measured.bits_per_byte_M[best]), 4)


def recipe_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Every field of the recipes in which the runs are not all alike, and its value in each."""
    apart = differing(*(run.recipe for run in runs))
    return [(name, [_value(value) for value in values]) for name, values in apart.items() if _is_known(runs, values)]


def _is_known(runs: Sequence[ComparedRun], values: Sequence[Any]) -> bool:
    """Whether they differ also without what is not known of deleted runs."""
    known = [value for run, value in zip(runs, values, strict=True) if value is not None or run.state != "deleted"]
    return any(value != known[0] for value in known)


def _value(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _SHOWN_CHARACTERS)


def lettered_scores(runs: Sequence[ComparedRun]) -> Scores:
    """The scores of all, the models called by their letters. A benchmark that was scored with other settings is another
    one, and says which."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in (evaluation for run in runs for evaluation in run.evaluations):
        if evaluation["settings"] not in settings.setdefault(evaluation["label"], []):
            settings[evaluation["label"]].append(evaluation["settings"])
    return scores_of(
        {**evaluation, "model": letter, "label": _label(evaluation, settings[evaluation["label"]])}
        for letter, run in zip(LETTERS, runs, strict=False)
        for evaluation in run.evaluations
    )


def _label(evaluation: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    own = settings.index(evaluation["settings"])
    said = [f"{name.removeprefix('asked.')} {_value(v[own])}" for name, v in differing(*settings).items()]
    return f"{evaluation['label']} ({', '.join(said)})" if said else evaluation["label"]


def cautions(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """What cannot be compared, or not as it stands, a sentence each."""
    yield from loss_cautions(runs)
    yield from _unlike_held_out(runs)
    for letter, run in zip(LETTERS, runs, strict=False):
        if run.state in ("running", "stopped"):
            at = f"at step {run.steps:,} of {run.steps_planned:,}"
            yield f"{letter} is {run.state} {at}: its figures are not those of a whole run."
        if run.state == "deleted":
            yield f"{letter} is deleted: of its recipe only the model, the training and the mixture are known."
    yield from _unlike_scores(runs)
    yield from _other_versions(runs)


def _other_versions(runs: Sequence[ComparedRun]) -> Iterator[str]:
    known = [run.made_by for run in runs if run.made_by]
    apart = {name: " → ".join(map(_value, versions)) for name, versions in differing(*known).items()}
    if "code" in apart:
        apart["code"] = "of other versions"
    if len({run.stage for run in runs}) > 1:
        apart.pop("code", None)  # every stage has its own
    if apart:
        yield f"What they were made by is not the same: {', '.join(f'{name} {said}' for name, said in apart.items())}."


def loss_cautions(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Why their losses do not compare, or may not."""
    if len({run.stage for run in runs}) > 1:
        said = _grouped([ROLES.get(run.stage, run.stage) for run in runs])
        yield f"{said}: their losses are of other text and do not compare."
    if unknown := [letter for letter, run in zip(LETTERS, runs, strict=False) if run.tokenizer_sha256 is None]:
        yield f"The tokenizer of {_and(unknown)} is not there any more: whether the losses compare is not known."
    tokenizers = list(dict.fromkeys(run.tokenizer_sha256 for run in runs if run.tokenizer_sha256 is not None))
    if len(tokenizers) > 1:
        numbered = {sha256: f"tokenizer {i}" for i, sha256 in enumerate(tokenizers, 1)}
        said = _grouped([numbered.get(run.tokenizer_sha256 or "") for run in runs])
        yield f"Other tokenizers ({said}): losses per token do not compare, bits per byte do."


def _unlike_held_out(runs: Sequence[ComparedRun]) -> Iterator[str]:
    missing: dict[str, list[str]] = {}
    shared = False
    for source in sorted({source for run in runs for source in run.curve.held_out}):
        of = [(letter, run) for letter, run in zip(LETTERS, runs, strict=False) if source in run.curve.held_out]
        texts = {run.held_out_text.get(source) for _, run in of} - {None}
        if len(texts) > 1:
            yield f"{source}: other held-out text, whose bits per byte do not compare."
        shared |= len(of) > 1
        if without := [letter for letter in LETTERS[: len(runs)] if letter not in dict(of)]:
            missing.setdefault(_and(without), []).append(source)
    for letters, sources in missing.items():
        yield f"{_and(sources)}: not measured of {letters}."
    read = [{name: _training(run).get(name) for name in ("seq_len_tokens", "eval_tokens")} for run in runs]
    others = [f"{name} {' → '.join(map(_value, values))}" for name, values in differing(*read).items()]
    if shared and others:
        yield f"The held-out rows are not the same ({', '.join(others)}): their bits per byte compare only roughly."


def _training(run: ComparedRun) -> Mapping[str, Any]:
    asked = run.recipe.get(run.stage, {})
    return asked.get("train", {}) if run.stage == "sft" else asked


def _unlike_scores(runs: Sequence[ComparedRun]) -> Iterator[str]:
    scored = [letter for letter, run in zip(LETTERS, runs, strict=False) if run.evaluations]
    if not scored:
        return
    if nothing := [letter for letter in LETTERS[: len(runs)] if letter not in scored]:
        yield f"There are no benchmark scores of {_and(nothing)}."
    items: dict[str, dict[str, str | None]] = {}
    for (task, _), by_model in lettered_scores(runs).items():
        for letter, measured in by_model.items():
            items.setdefault(task, {})[letter] = measured["items"] and measured["items"]["sha256"]
    for task, by_letter in items.items():
        if missing := [letter for letter in scored if letter not in by_letter]:
            yield f"{task}: not scored of {_and(missing)}."
        if len(set(by_letter.values()) - {None}) > 1:
            yield f"{task}: scored on other items, which do not compare."


def _grouped(names: Sequence[str | None]) -> str:
    """Letters by what they have: A and C pretraining, B fine-tuning."""
    groups: dict[str, list[str]] = {}
    for letter, name in zip(LETTERS, names, strict=False):
        if name is not None:
            groups.setdefault(name, []).append(letter)
    return ", ".join(f"{_and(letters)} {name}" for name, letters in groups.items())


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
