"""What a token may see, from the words and not from the code."""

import torch


def doc_start(lengths):
    return torch.tensor([[sum(lengths[:i]) for i, n in enumerate(lengths) for _ in range(n)]])


def visible_by_definition(lengths, window, sink):
    """`[T, T]`, from the words: own document, not later, among the newest `window` or the document's first `sink`."""
    rows = []
    for start, n in zip([sum(lengths[:i]) for i in range(len(lengths))], lengths, strict=True):
        for i in range(start, start + n):
            newest = set(range(max(start, i - window + 1), i + 1))
            first = set(range(start, min(start + sink, i + 1)))
            rows.append([j in newest | first for j in range(sum(lengths))])
    return torch.tensor(rows)
