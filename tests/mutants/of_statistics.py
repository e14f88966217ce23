"""Mutants of what is said of scores, of held-out text, of epochs and of the control."""

from mutant import Mutant


def _of(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "reports/intervals.py",
        ("tests/reports/test_intervals.py",),
        ("LEAST_N = 8", "LEAST_N = 1", "nothing is said on a handful"),
        ("spread = successes / n, Z_95**2 / n", "spread = successes / n, Z_95 / n", "Wilson's spread"),
        ("low = 0.0 if successes == 0 else", "low =", "Wilson's interval ends at nothing"),
        ("effective_n(items) - 1))) * error", "len(items) - 1))) * error", "degrees of freedom of the effective n"),
        ("(n - 1) / n * sum(", "1 / n * sum(", "jackknife's factor"),
        ("(1 + LEVEL) / 2", "LEVEL", "both tails"),
        ('ours["sha256"] != theirs["sha256"]', "False", "other items are not compared"),
        ("binomtest(only_ours, apart)", "binomtest(only_ours, len(pairs))", "only where models differ"),
        ("pvalue <= 1 - LEVEL", "pvalue <= 2 * (1 - LEVEL)", "level of the exact test"),
        ("return ours[0] - theirs[0], ours[1]", "return ours[0], ours[1]", "differences are paired"),
        ("return low > 0 or high < 0", "return low > 0", "either of two models may be better"),
    ),
    *_of(
        "reports/scores.py",
        ("tests/reports/test_comparison_page.py",),
        ('if ours["sha256"] != theirs["sha256"]:', "if False:", "of other items it is said that they are"),
        ('return f"no verdict: n < {LEAST_N}"', 'return "not told apart"', "no verdict on a handful"),
    ),
    *_of(
        "reports/compared.py",
        ("tests/reports/test_comparison_page.py",),
        ("if len(tokenizers) > 1:", "if False:", "losses of other tokenizers do not compare"),
        (
            "if len(texts) > 1:",
            "if False:",
            "bits per byte of other text do not compare",
        ),
        ('if evaluation["settings"] not in', "if not", "a benchmark with other settings is another one"),
    ),
    *_of(
        "tasks/runs/compare.py",
        ("tests/tasks/runs/test_compare.py",),
        ('artifact.manifest["parents"]["model"][:12], []', '"a" * 12, []', "scores are those of the run's own model"),
    ),
    *_of(
        "reports/curves.py",
        ("tests/reports/test_curves.py",),
        ("half = np.minimum(max(span, 1) // 2,", "half = np.minimum(0,", "curves are averaged"),
        ("at - half, at + half + 1", "at - half, at + 1", "the average looks to both sides"),
        ("count = np.concatenate(([0], np.cumsum(finite)))", "count = np.arange(len(values) + 1)", "gaps do not count"),
    ),
    *_of(
        "tasks/benchmarks/scores.py",
        ("tests/tasks/benchmarks/test_scores.py",),
        ('json.dumps(record["doc"], sort_keys=True, default=str)', '""', "items are known by their documents"),
        ("if None in values:", "if False:", "what is no number is not kept"),
    ),
    *_of(
        "data/epochs.py",
        ("tests/data/test_epochs.py",),
        ("if count > MOST_EPOCHS]", "if count > 100]", "many epochs are pointed out"),
        ("batch_tokens * scheduled_weights", "scheduled_weights", "tokens that are drawn"),
    ),
    *_of(
        "models/twin.py",
        ("tests/models/test_twin.py",),
        ("if same is not None and is_sensible(same):", "if same is not None:", "a control one would train"),
        ("LEAST, USUAL, MOST = 2.5, 3, 4.0", "LEAST, USUAL, MOST = 0.1, 3, 99.0", "ordinary d_ff"),
        ("return 64 if d_model >= NARROW else", "return 16 if d_model >= NARROW else", "ordinary heads"),
    ),
]
