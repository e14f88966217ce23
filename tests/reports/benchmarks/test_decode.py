"""The decoding benchmark times both ways in one run and writes what it found."""

from athanor.reports.benchmarks import decode


def test_the_benchmark_writes_a_row_for_each_family(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "REPEATS", 1)
    monkeypatch.setattr(decode, "SHAPE", {**decode.SHAPE, "d_model": 32, "n_layers": 1, "d_ff": 32})
    out = tmp_path / "decode.md"
    decode.main(["--families", "vanilla", "--context", "50", "--new-tokens", "4", "--out", str(out), "--note", "Idle"])
    text = out.read_text()
    assert "--context 50 --new-tokens 4 --rows 1 --device cpu`" in text
    assert ". Idle.\n" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| vanilla")]
    *_, cached, recomputed, ratio, _ = (cell.strip() for cell in row.split("|"))
    lowest = (float(cached) - 0.05) / (float(recomputed) + 0.005)  # what printing rounded away
    highest = (float(cached) + 0.05) / max(float(recomputed) - 0.005, 1e-9)
    assert lowest - 0.05 <= float(ratio.removesuffix(" ×")) <= highest + 0.05


def test_cached_speed_counts_every_token_after_the_first_of_each_row(monkeypatch):
    class Stream:
        def __init__(self, _model, prompts, *, max_new_tokens, **_options):
            self.tokens = [(row, 0) for _ in range(max_new_tokens) for row in range(len(prompts))]

        def __iter__(self):
            return iter(self.tokens)

    clock = iter((10.0, 12.0))
    monkeypatch.setattr(decode, "TokenStream", Stream)
    monkeypatch.setattr(decode.time, "perf_counter", lambda: next(clock))
    assert decode.cached_tokens_per_s(None, [[1], [2]], 8) == 8.0
