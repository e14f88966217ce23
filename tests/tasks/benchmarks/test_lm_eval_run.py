"""Benchmarks end to end on a toy checkpoint: right answers score 1, wrong ones 0, mistakes are one line."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from itertools import islice

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from athanor.core.errors import UserError
from athanor.core.runtime import Runtime
from athanor.data.data_recipe import TokenizerRecipe
from athanor.data.documents import read_documents
from athanor.data.sources.word_problems import generate
from athanor.data.tokenizer import build_tokenizer, load_tokenizer
from athanor.models.build import build_model
from athanor.models.checkpoints.portable import load_portable, save_portable
from athanor.models.decoding.harness import ChatPrompt, HarnessLM
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.benchmarks import catalogue
from athanor.tasks.benchmarks.lm_eval_run import run_task, validate_task
from athanor.tasks.benchmarks.local import SEED, local_names, reads_documents
from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe

RUNTIME = Runtime(device="cpu", precision="fp32", eval_batch_rows=8)
HELD_OUT = list(islice(generate(SEED, "held_out"), 60))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = (problem.text for problem in islice(generate(0, "train"), 300))
    facts = build_tokenizer(TokenizerRecipe(vocab_size=400), texts, folder / "tokenizer")
    model = build_model(
        ModelRecipe(
            family="vanilla",
            vocab_size=facts["vocab_size"],
            d_model=16,
            n_layers=1,
            n_heads=2,
            n_kv_heads=1,
            head_dim=8,
            d_ff=16,
            max_seq_len=96,
        )
    )
    model.init_weights(0)
    save_portable(folder / "model", model, folder / "tokenizer")
    return folder / "model"


@pytest.fixture
def score(checkpoint, tmp_path):
    """Runs a task on the toy checkpoint; returns its metrics and samples."""

    def run(recipe, model_name="base", documents=None, seed=0):
        result = run_task(
            recipe,
            label="a label",
            model_dir=checkpoint,
            model_name=model_name,
            out=tmp_path / "out",
            runtime=RUNTIME,
            seed=seed,
            documents=documents,
        )
        assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
        lines = (tmp_path / "out" / result["samples_file"]).read_text().splitlines()
        return result["metrics"], [json.loads(line) for line in lines]

    return run


@pytest.fixture
def answers(monkeypatch):
    """Replaces generation by a function of the prompt; returns the prompts seen."""

    def install(answer):
        seen = []

        def generate_until(self, requests):
            seen.extend(request.args[0] for request in requests)
            return [answer(request.args[0]) for request in requests]

        monkeypatch.setattr(HarnessLM, "generate_until", generate_until)
        return seen

    return install


def right_answer(prompt):
    return next(problem.answer for problem in HELD_OUT if problem.question in prompt)


@pytest.mark.parametrize("model_name", ["base", "sft"])
@pytest.mark.parametrize("name", ["word_problems", "word_problems_20"])
def test_a_model_that_knows_scores_one_and_one_that_does_not_zero(score, answers, name, model_name):
    recipe = EvalTaskRecipe(name=name, limit=12)
    answers(right_answer)
    metrics, samples = score(recipe, model_name)
    assert metrics["exact_match"]["value"] == 1.0 and metrics["exact_match"]["ci_high"] == 1.0
    assert metrics["exact_match"]["n"] == len(samples) == 12
    assert all(sample["correct"] is True for sample in samples)
    answers(lambda prompt: right_answer(prompt) + "1")
    metrics, samples = score(recipe, model_name)
    assert metrics["exact_match"]["value"] == metrics["exact_match"]["ci_low"] == 0.0
    assert all(sample["correct"] is False for sample in samples)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_row_that_no_plan_looked_at_is_named_before_anything_is_scored(score, tmp_path, suffix):
    good = {"question": "?", "choices": {"text": ["stone", "lamp"], "label": ["A", "B"]}, "answerKey": "B"}
    bad = {**good, "choices": {"text": ["stone"], "label": ["A", "B"]}}
    file = tmp_path / f"arc.{suffix}"
    if suffix == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist([good, good, bad]), file)
    else:
        file.write_text("\n".join(map(json.dumps, [good, good, bad])))
    recipe = EvalTaskRecipe(name="arc_easy", path=str(file))
    validate_task(recipe)
    with pytest.raises(UserError, match=rf"arc\.{suffix}, row 3: answer 1 is not among its 1 choices"):
        score(recipe)


def test_an_answer_without_the_mark_is_wrong(score, answers):
    answers(lambda prompt: right_answer(prompt).replace("####", ""))
    metrics, _ = score(EvalTaskRecipe(name="word_problems", limit=4))
    assert metrics["exact_match"]["value"] == 0.0


def test_word_problems_20_asks_only_sums_and_differences_to_20(score, answers):
    seen = answers(right_answer)
    score(EvalTaskRecipe(name="word_problems_20", limit=20))
    kinds = {problem.kind for problem in HELD_OUT for prompt in seen if problem.question in prompt}
    assert kinds == {"sum", "difference"}


def test_the_base_model_reads_the_pretraining_text_and_the_tuned_one_a_conversation(score, answers):
    recipe, question = EvalTaskRecipe(name="word_problems", limit=1), HELD_OUT[0].question
    base = answers(right_answer)
    _, (sample,) = score(recipe, "base")
    assert base == [f"Question: {question}\nAnswer:"] and sample["prompt"] == base[0]
    assert HELD_OUT[0].text.startswith(base[0])
    assert sample["response"] == HELD_OUT[0].answer and sample["expected"] == str(HELD_OUT[0].value)
    tuned = answers(right_answer)
    score(recipe, "sft")
    assert tuned == [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"]
    assert isinstance(tuned[0], ChatPrompt)


def test_the_likeliest_choice_is_scored_against_chance(score, monkeypatch):
    seen = []

    def prefer(sign):
        def loglikelihood(self, requests):
            seen.extend(request.args for request in requests)
            right = {f"Question: {p.question}\nAnswer: {p.answer}" for p in HELD_OUT}
            return [(sign * float("".join(request.args) in right), False) for request in requests]

        return loglikelihood

    recipe = EvalTaskRecipe(name="word_problems_choice", limit=10)
    monkeypatch.setattr(HarnessLM, "loglikelihood", prefer(+1))
    metrics, samples = score(recipe, "sft")
    assert metrics["acc"]["value"] == 1.0 and metrics["acc"]["chance"] == 0.25 and metrics["acc"]["n"] == 10
    assert [sample["response"] for sample in samples] == [problem.answer for problem in HELD_OUT[:10]]
    assert len(seen) == 40 and not any(isinstance(context, ChatPrompt) for context, _ in seen)
    monkeypatch.setattr(HarnessLM, "loglikelihood", prefer(-1))
    metrics, samples = score(recipe)
    assert metrics["acc"]["value"] == 0.0
    assert all(sample["response"] != sample["expected"] for sample in samples)


@pytest.fixture
def documents(tmp_path):
    """Two documents artifacts, one with texts longer than the model's rows and beyond ASCII."""

    def write(source, texts):
        folder = tmp_path / source
        folder.mkdir()
        rows = {"text": texts, "ref": [f"f:{n}" for n in range(len(texts))]}
        pyarrow.parquet.write_table(pa.table(rows), folder / "held_out-00000.parquet")
        return folder

    long = "Naïve Σ-algebras – 漢字 <|im_start|> <|endoftext|> [1, 2] {{ x }}\n" * 9
    return {"stem": write("stem", [long, "é", ""]), "math": write("math", [p.text for p in HELD_OUT[:5]])}


@torch.no_grad()
def test_bits_per_byte_is_what_the_tokens_cost_over_their_bytes(score, checkpoint, documents):
    metrics, samples = score(EvalTaskRecipe(name="bits_per_byte"), documents=documents)
    assert set(metrics) == {"bits_per_byte_stem", "bits_per_byte_math"}
    model, tokenizer = load_portable(checkpoint), load_tokenizer(checkpoint)
    limit = model.recipe.max_seq_len
    for source, folder in documents.items():
        nats, bytes_ = 0.0, 0
        for document in read_documents(folder, "held_out"):
            ids = [tokenizer.eos_id, *tokenizer.encode(document.text)]
            for n in range(1, len(ids)):
                last_window = n - 1 >= (len(ids) - 2) // limit * limit
                start = max(0, len(ids) - 1 - limit) if last_window else (n - 1) // limit * limit
                nats -= float(model(torch.tensor([ids[start:n]]))[0, -1].log_softmax(-1)[ids[n]])
            bytes_ += len(document.text.encode())
        assert metrics[f"bits_per_byte_{source}"]["value"] == pytest.approx(nats / bytes_ / math.log(2), rel=1e-5)
        assert not metrics[f"bits_per_byte_{source}"]["higher_is_better"]
    assert metrics["bits_per_byte_stem"]["n"] == 2, "an empty document has no bytes and is left out"
    assert [sample["correct"] for sample in samples] == [None] * 7


def test_the_limit_of_bits_per_byte_is_per_source(score, documents):
    metrics, _ = score(EvalTaskRecipe(name="bits_per_byte", limit=1), documents=documents)
    assert [metric["n"] for metric in metrics.values()] == [1, 1]


def test_bits_per_byte_without_held_out_text_names_the_remedy(score, tmp_path):
    with pytest.raises(UserError, match="held_out_fraction"):
        score(EvalTaskRecipe(name="bits_per_byte"), documents={"math": tmp_path})


def test_only_bits_per_byte_reads_the_documents():
    assert [name for name in local_names() if reads_documents(EvalTaskRecipe(name=name))] == ["bits_per_byte"]


def test_the_same_model_and_recipe_give_the_same_bytes(score, documents, tmp_path):
    for recipe in (EvalTaskRecipe(name="word_problems", limit=6), EvalTaskRecipe(name="bits_per_byte", limit=3)):
        written = []
        for _ in range(2):
            score(recipe, documents=documents)
            written.append([(tmp_path / "out" / name).read_bytes() for name in ("result.json", "samples.jsonl")])
        assert written[0] == written[1]


def test_max_new_tokens_caps_the_answer(score, checkpoint):
    _, (sample,) = score(EvalTaskRecipe(name="word_problems", limit=1, max_new_tokens=3))
    assert 0 < len(load_tokenizer(checkpoint).encode(sample["response"])) <= 3


def test_data_sets_are_loaded_at_their_commit_and_lm_eval_is_left_as_it_was(checkpoint, tmp_path, monkeypatch):
    asked = []

    def load(path, *args, **kwargs):
        asked.append((path, kwargs.get("revision")))
        raise ConnectionError("enough")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError):
        run_task(
            EvalTaskRecipe(name="gsm8k"),
            label="sums",
            model_dir=checkpoint,
            model_name="base",
            out=tmp_path / "out",
            runtime=RUNTIME,
            seed=0,
            commits={"openai/gsm8k": "1" * 40},
        )
    assert asked == [("openai/gsm8k", "1" * 40)]
    assert datasets.load_dataset is load


def test_a_data_set_that_the_key_says_no_commit_of_is_in_the_result(score, checkpoint, tmp_path, monkeypatch):
    rows = datasets.Dataset.from_list([{"question": "2 + 2?", "answer": "#### 4"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(train=rows, test=rows))
    recipe = EvalTaskRecipe(name="gsm8k", limit=1, num_fewshot=0, max_new_tokens=4)
    score(recipe)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["unpinned_sets"] == {
        "openai/gsm8k": "unknown commit"
    }


def test_lm_eval_is_quiet_and_left_as_it_was(score, capfd):
    import lm_eval.api.task

    logger, bar, bars = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.WARNING)
    score(EvalTaskRecipe(name="word_problems", limit=2))
    assert capfd.readouterr() == ("", "")
    assert logger.level == logging.WARNING
    assert (lm_eval.api.task.tqdm, datasets.are_progress_bars_disabled()) == (bar, bars)


def test_gsm8k_runs_offline_on_a_local_file(score, answers, test_data_path):
    path = test_data_path("gsm8k/test.jsonl")
    fields = {"name": "gsm8k", "path": str(path), "limit": 4, "num_fewshot": 0}
    with pytest.raises(UserError, match=r"4 of 4 prompts lost their beginning .* more than max_cut_fraction=0.5"):
        score(EvalTaskRecipe(**fields))
    recipe = EvalTaskRecipe(**fields, max_cut_fraction=1.0)
    metrics, samples = score(recipe)
    assert metrics["exact_match,strict-match"]["n"] == 4 and len(samples) == 4
    records = [json.loads(line) for line in path.read_text().splitlines()[:4]]
    assert [sample["expected"] for sample in samples] == [record["answer"] for record in records]
    assert all(sample["cut_tokens"] > 0 and not sample["prompt"].startswith("Question") for sample in samples)
    answers(lambda prompt: next(r["answer"] for r in records if r["question"] in prompt))
    metrics, samples = score(recipe, "sft")
    assert metrics["exact_match,strict-match"]["value"] == metrics["exact_match,flexible-extract"]["value"] == 1.0
    assert samples[0]["prompt"].startswith("<|im_start|>user\nQuestion: ")


@pytest.mark.parametrize("folder", ["plain", "set [v2]", "~"])
def test_a_parquet_file_feeds_a_task_too_whatever_its_folder_is_called(score, answers, tmp_path, monkeypatch, folder):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / (folder.replace("~", ".")) / "test.parquet"
    file.parent.mkdir(exist_ok=True)
    table = pa.table({"question": [p.question for p in HELD_OUT[:3]], "value": [p.value for p in HELD_OUT[:3]]})
    pyarrow.parquet.write_table(table, file)
    answers(right_answer)
    given = "~/test.parquet" if folder == "~" else str(file)
    metrics, _ = score(EvalTaskRecipe(name="word_problems", path=given))
    assert (metrics["exact_match"]["value"], metrics["exact_match"]["n"]) == (1.0, 3)


def write_records(tmp_path, text):
    file = tmp_path / "test.jsonl"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "gsm9k"}, "gsm9k.*bits_per_byte, word_problems, .*lm-eval"),
        ({"name": "gsm8k", "path": "no/such.jsonl", "num_fewshot": 0}, "no/such.jsonl does not exist"),
        ({"name": "gsm8k", "path": "test.csv", "num_fewshot": 0}, "test.csv must end in .jsonl"),
        ({"name": "gsm8k", "path": "HERE"}, "5 are asked for; set num_fewshot: 0"),
        ({"name": "mmlu_stem", "path": "HERE", "num_fewshot": 0}, "one task, not a group"),
        ({"name": "bits_per_byte", "path": "HERE"}, "remove path="),
        ({"name": "word_problems", "num_fewshot": 3}, "num_fewshot=3"),
    ],
)
def test_a_task_that_cannot_run_is_refused_in_one_line_before_anything_runs(fields, message, tmp_path):
    if fields.get("path") == "HERE":
        fields = fields | {"path": write_records(tmp_path, "{}\n")}
    with pytest.raises(UserError, match=message) as caught:
        validate_task(EvalTaskRecipe(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "What is 1 + 1?"}\n', "row 1: field 'answer' is missing or null"),
        ("no json\n", "row 1: not JSON"),
        ("", "cannot be read"),
        ("\n\n", "cannot be read"),
    ],
)
def test_a_local_file_that_does_not_fit_is_one_line_naming_it(score, tmp_path, text, message):
    path = write_records(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        score(EvalTaskRecipe(name="gsm8k", path=path, num_fewshot=0))
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_offline_without_a_local_file_names_the_data_set_and_the_remedy(score, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError, match=r"gsm8k: data set openai/gsm8k .* path") as caught:
        score(EvalTaskRecipe(name="gsm8k", limit=1))
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_one_line_with_the_remedy(score, monkeypatch):
    monkeypatch.setitem(sys.modules, "antlr4", None)
    with pytest.raises(UserError, match=r"minerva_math .*pip install 'lm-eval\[math\]'"):
        score(EvalTaskRecipe(name="minerva_math", limit=1))


def test_a_group_is_found_with_all_its_members_without_indexing_everything():
    index = catalogue.manager("mmlu_stem").task_index
    assert len(index["mmlu_stem_tasks"].tags) == 19
    assert len(index) < 200
    assert {"minerva_math", "minerva_math_algebra", "minerva_math_precalc"} <= set(
        catalogue.manager("minerva_math").task_index
    )


def test_checking_a_local_task_does_not_import_lm_eval():
    code = (
        "import sys; from athanor.tasks.benchmarks.lm_eval_run import validate_task;"
        "from athanor.tasks.benchmarks.task_recipe import EvalTaskRecipe;"
        "validate_task(EvalTaskRecipe(name='word_problems'));"
        "assert not {'lm_eval', 'torch', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
