"""From scored documents to metrics with 95 % intervals, and to readable samples.

Input are the per-document records that lm-eval logs. Metrics are recomputed from them over all documents of
a task (of a group: over the documents of all its members), because lm-eval reports standard errors, which
are wrong for proportions near 0 and 1, and reports none for bits per byte.

Proportions get Wilson's interval (Wilson 1927), which stays inside [0, 1] and has width at 0 % and 100 %.
Everything else gets a percentile bootstrap over documents (Efron 1979) with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from athanor.core.errors import UserError

Z_95 = 1.959963984540054  # standard normal quantile at 0.975
RESAMPLES = 1000
EXCERPT_CHARACTERS = 300  # of a document in the samples
NO_FILTER = "none"  # lm-eval's name of the filter that changes nothing
CHOICE_METRICS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info"})

Record = Mapping[str, Any]


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion; `n` >= 1. Exactly 0 or 1 at the ends, as the formula is but for rounding."""
    share, spread = successes / n, Z_95**2 / n
    centre = share + spread / 2
    half = Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if successes == 0 else (centre - half) / (1 + spread)
    high = 1.0 if successes == n else (centre + half) / (1 + spread)
    return low, high


def bootstrap_interval(
    values: Sequence[Any], aggregate: Callable[[list[Any]], float], seed: int
) -> tuple[float, float]:
    """95 % percentile interval of `aggregate` over documents drawn with replacement; a pure function of `seed`."""
    rng = np.random.default_rng(seed)
    draws = [aggregate([values[i] for i in rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def score(
    tasks: Mapping[str, Any], records: Mapping[str, list[Record]], *, split_by: str | None, seed: int
) -> dict[str, dict[str, Any]]:
    """Metric name -> {value, ci_low, ci_high, n, higher_is_better, chance}, in the tasks' own order.

    `tasks`: lm-eval task objects by name; `records`: their logged samples. A metric under a filter is
    `metric,filter` as in lm-eval; with `split_by`, each value of that document field has a metric of its own.
    Raises UserError if a metric is not a finite number.
    """
    values: dict[str, list[Any]] = {}
    chances: dict[str, list[float]] = {}
    about: dict[str, tuple[Callable[[list[Any]], float], bool]] = {}
    for task_name, task in tasks.items():
        for record in records[task_name]:
            for metric in record["metrics"]:
                name = metric if record["filter"] == NO_FILTER else f"{metric},{record['filter']}"
                if split_by is not None:
                    name = f"{name}_{record['doc'][split_by]}"
                values.setdefault(name, []).append(record[metric])
                if task.OUTPUT_TYPE == "multiple_choice" and metric in CHOICE_METRICS:
                    chances.setdefault(name, []).append(1 / len(task.doc_to_choice(record["doc"])))
                about.setdefault(name, (task.aggregation()[metric], bool(task.higher_is_better()[metric])))
    return {name: _metric(name, values[name], *about[name], chances.get(name), seed) for name in values}


def _metric(
    name: str,
    values: list[Any],
    aggregate: Callable[[list[Any]], float],
    higher_is_better: bool,
    chances: list[float] | None,
    seed: int,
) -> dict[str, Any]:
    if all(np.isscalar(value) and value in (0, 1) for value in values):
        right = float(sum(values))
        value, (low, high) = right / len(values), wilson_interval(right, len(values))
    else:
        value, (low, high) = float(aggregate(values)), bootstrap_interval(values, aggregate, seed)
    if not all(map(math.isfinite, (value, low, high))):
        raise UserError(f"metric {name} is {value}: the model gives no finite number; look at its training loss")
    return {
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "higher_is_better": higher_is_better,
        "chance": sum(chances) / len(chances) if chances else None,
    }


def readable_samples(tasks: Mapping[str, Any], records: Mapping[str, list[Record]]) -> Iterator[dict[str, Any]]:
    """One {prompt, response, expected, correct} per document.

    `correct` is the first metric under the first filter, None where that is no yes or no.
    """
    for name, task in tasks.items():
        first_filter = records[name][0]["filter"]
        for record in records[name]:
            if record["filter"] == first_filter:
                yield _readable(task, record)


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
