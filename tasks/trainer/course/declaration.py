"""What a run is going to do, before it does it: every schedule in one table, `schedule.json`.

Columns by name, a value for each of `step`: learning rate, tokens and rows of a step's rows, the share of each source,
whether weights are averaged, and every scheduled value of the model. A row for step s holds what step s (counted from
1, as logged) is computed with. The report draws the table beside what was logged.
"""

from __future__ import annotations

import numpy as np

from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.course.course import Course
from athanor.tasks.trainer.step.batches import Loader
from athanor.tasks.trainer.train_recipe import TrainRecipe

POINTS = 200


def declared_schedule(recipe: TrainRecipe, loader: Loader, model: LanguageModel | None) -> dict[str, list[float]]:
    """The table, at most POINTS rows; `model` None for a run that keeps the model's schedules where they are."""
    course = Course(recipe)
    steps = np.unique(np.linspace(0, recipe.steps - 1, POINTS).round().astype(int)).tolist()
    rows = []
    for step in steps:
        counts = loader.counts(step)
        row = {
            "learning rate": course.learning_rate(step),
            "tokens per row": recipe.batch_tokens // loader.batch_rows(step),
            "rows per step": loader.batch_rows(step),
            **{f"share of {source}": count / sum(counts.values()) for source, count in counts.items()},
        }
        if recipe.average_from is not None:
            row["weights averaged"] = float(course.progress(step) >= recipe.average_from)
        if model is not None:
            row |= model.schedule(course.progress(step))
        rows.append(row)
    return {"step": [step + 1 for step in steps], **{name: [row[name] for row in rows] for name in rows[0]}}
