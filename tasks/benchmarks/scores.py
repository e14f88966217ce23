"""From scored documents to metrics with 95 % intervals, and to readable samples.

Input are the per-document records that lm-eval logs. Metrics are recomputed from them over all documents of
a task (of a group: over the documents of all its members), because lm-eval reports standard errors, which
are wrong for proportions near 0 and 1, and reports none for bits per byte.

How sure a score is, is said by athanor.reports.intervals. What came of each item is kept beside the scores, so that two
models can be compared item by item.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from numbers import Real
from typing import Any

import numpy as np

from athanor.core.errors import UserError
from athanor.reports.intervals import are_yes_or_no, interval

EXCERPT_CHARACTERS = 300  # of a document in the samples
NO_FILTER = "none"  # lm-eval's name of the filter that changes nothing
CHOICE_METRICS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info"})

Record = Mapping[str, Any]


@dataclass
class _Collected:
    """What the documents of a task say of one metric."""

    aggregate: Callable[[list[Any]], float]
    higher_is_better: bool
    values: list[Any] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)


def score(
    tasks: Mapping[str, Any], records: Mapping[str, list[Record]], *, split_by: str | None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Two tables by metric name: {value, ci_low, ci_high, n, higher_is_better, chance}, in the tasks' own order, and
    {sha256 of the documents, values: what came of each} where that is a number or a sum and its weight.

    `tasks`: lm-eval task objects by name; `records`: their logged samples. A metric under a filter is
    `metric,filter` as in lm-eval; with `split_by`, each value of that document field has a metric of its own.
    Raises UserError if a metric is not a finite number.
    """
    found: dict[str, _Collected] = {}
    for task_name, task in tasks.items():
        for record in records[task_name]:
            for metric in record["metrics"]:
                name = metric if record["filter"] == NO_FILTER else f"{metric},{record['filter']}"
                if split_by is not None:
                    name = f"{name}_{record['doc'][split_by]}"
                if name not in found:
                    found[name] = _Collected(task.aggregation()[metric], bool(task.higher_is_better()[metric]))
                found[name].values.append(record[metric])
                found[name].documents.append(json.dumps(record["doc"], sort_keys=True, default=str))
                if task.OUTPUT_TYPE == "multiple_choice" and metric in CHOICE_METRICS:
                    found[name].chances.append(1 / len(task.doc_to_choice(record["doc"])))
    metrics = {name: _metric(name, one) for name, one in found.items()}
    return metrics, {name: items for name, one in found.items() if (items := _items(one)) is not None}


def _metric(name: str, one: _Collected) -> dict[str, Any]:
    values = one.values
    yes_or_no = are_yes_or_no(values)
    value = float(sum(values)) / len(values) if yes_or_no else float(one.aggregate(values))
    low, high = interval(values, one.aggregate) or (None, None)
    if not all(math.isfinite(number) for number in (value, low, high) if number is not None):
        raise UserError(f"metric {name} is {value}: the model gives no finite number; look at its training loss")
    return {
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "higher_is_better": one.higher_is_better,
        "chance": sum(one.chances) / len(one.chances) if one.chances else None,
    }


def _items(one: _Collected) -> dict[str, Any] | None:
    values = [_plain(value) for value in one.values]
    if None in values:
        return None
    return {"sha256": sha256("\n".join(one.documents).encode()).hexdigest(), "values": values}


def _plain(value: Any) -> float | list[float] | None:
    """A number, or a sum and its weight, as JSON; None for anything else."""
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if len(parts) > 2 or not all(isinstance(part, Real) for part in parts):
        return None
    numbers = [float(part) for part in parts]
    return numbers if isinstance(value, list | tuple) else numbers[0]


def readable_samples(
    tasks: Mapping[str, Any], records: Mapping[str, list[Record]], read: Mapping[str, tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """One {prompt, response, expected, correct} per document, the prompt as the model read it.

    `correct` is the first metric under the first filter, None where that is no yes or no. `read`: of prompts that were
    cut, what was read and how many tokens were not; samples of these have `cut_tokens` too.
    """
    for name, task in tasks.items():
        first_filter = records[name][0]["filter"]
        for record in records[name]:
            if record["filter"] == first_filter:
                sample = _readable(task, record)
                text, cut_tokens = read.get(str(record["arguments"][0][0]), (sample["prompt"], 0))
                yield sample | {"prompt": text} | ({"cut_tokens": cut_tokens} if cut_tokens else {})


def _readable(task: Any, record: Record) -> dict[str, Any]:
    arguments, responses = record["arguments"], record["resps"]
    prompt, expected = str(arguments[0][0]), str(record["target"])
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(record["doc"])
        log_probabilities = [response[0][0] for response in responses[: len(choices)]]
        response = choices[int(np.argmax(log_probabilities))]
        expected = choices[record["target"]] if isinstance(record["target"], int) else expected
    elif task.OUTPUT_TYPE == "generate_until":
        response = responses[0][0]
    elif task.OUTPUT_TYPE == "loglikelihood":
        response = f"log-probability {responses[0][0][0]:.4f}"
    else:  # loglikelihood_rolling: the argument is the whole text
        prompt, expected, response = prompt[:EXCERPT_CHARACTERS], "", f"log-probability {responses[0][0]:.4f}"
    first = record[record["metrics"][0]]
    correct = bool(first) if np.isscalar(first) and first in (0, 1) else None
    return {"prompt": prompt, "response": response, "expected": expected, "correct": correct}
