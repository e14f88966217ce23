"""The command that measures a training step runs where there is no GPU, and says what it measured."""

import yaml

from athanor.tasks.trainer.step.measured import main

MODEL = {"family": "vanilla", "vocab_size": 64, "d_model": 16, "n_layers": 1, "n_heads": 2, "head_dim": 8, "d_ff": 16}


def test_a_step_is_measured_with_and_without_our_kernels_and_learns_the_same(tmp_path):
    preset = {"model": MODEL | {"n_kv_heads": 1, "max_seq_len": 16}, "pretrain": {"seq_len_tokens": 16}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    main([str(tmp_path / "tiny.yaml"), "--device", "cpu", "--rows", "2", "--out", str(tmp_path / "steps.md")])
    rows = [line.split(" | ") for line in (tmp_path / "steps.md").read_text(encoding="utf-8").splitlines()[-2:]]
    assert [row[2] for row in rows] == ["none", "all"] and rows[0][-1] == rows[1][-1]
    assert all(float(row[4].replace(",", "")) > 0 for row in rows)
