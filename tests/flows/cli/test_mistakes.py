"""What newcomers get wrong, seen from outside: each mistake is answered in one line that names the value and a remedy.

All of them run in this process, and none may get so far as to build anything.
"""

from __future__ import annotations

import shlex
from types import MappingProxyType

import pytest

from athanor.flows.cli import run_flow

FILES = MappingProxyType(
    {
        "notes.txt": "A line of a note.\n" * 100,
        "picture.png": "no picture",
        "empty.yaml": "",
        "words.yaml": "just some words\n",
        "open.yaml": "extends: quickstart\nsft: {train: {steps: 3}\n",
        "tab.yaml": "extends: quickstart\npretrain:\n\tsteps: 3\n",
        "twice.yaml": "extends: quickstart\npretrain: {steps: 300}\npretrain: {steps: 500}\n",
        "bare.yaml": "name: mine\n",
        "short.yaml": "extends: quickstart\nmodel: null\npretrain: {steps: null, peak_lr: null}\n",
        "spelt.yaml": "extends: quickstart\npretrain: {steps: null, stepz: 3}\n",
        "My Run.yaml": "extends: quickstart\n",
        "named.yaml": "extends: quickstart\nname: Notes!\n",
        "base.yaml": "extends: quikstart\n",
        "self.yaml": "extends: self.yaml\n",
        "list.yaml": "extends: quickstart\ndata: {sources: {notes: {path: [a.txt, b.txt]}}}\n",
        "chats.yaml": "extends: quickstart\nsft: {source: {path: [a.jsonl, b.jsonl]}}\n",
        "files.yaml": "extends: quickstart\ndata: {sources: [a.txt, b.txt]}\n",
        "tasks.yaml": "extends: quickstart\nevaluate: {tasks: [gsm8k]}\n",
        "both.yaml": "extends: quickstart\ndata: {sources: {notes: {path: notes.txt, hub: a/b}}}\n",
        "nowhere.yaml": "extends: quickstart\ndata: {sources: {notes: {max_bytes: 5}}}\n",
        "spaced.yaml": "extends: quickstart\ndata: {sources: {My Notes: {path: notes.txt}}}\n",
    }
)

# The command, and what its answer says: the value that is wrong, and what to write instead.
MISTAKES = (
    ("run", "PRESET", "athanor run -h"),
    ("runn quickstart", "'runn'", "Did you mean 'run'"),
    ("runs lst", "'lst'", "Did you mean 'list'?"),
    ("run quickstart --rebuld", "--rebuld", "athanor run -h"),
    ("run quickstart --steps 3", "--steps", "--set"),
    ("run quickstart --set", "--set", "requires an argument"),
    ("run quickstart --only evalute", "'evalute'", "did you mean evaluate?"),
    ("run quickstart --only eval", "'eval'", "did you mean evaluate?"),
    ("run quickstart --only training", "'training'", "'pretrain', 'sft'"),
    ("run quickstart --budget-usd five", "'five'", "should be a valid number"),
    ("run quickstart --budget-usd -1", "--budget-usd -1", "above 0"),
    ("plan quickstart --budget-hours 0", "--budget-hours 0", "above 0"),
    ("plan quickstart --set pretrain.peak_lr=1e9", "pretrain.peak_lr='1e9'", "less than or equal to 10"),
    ("documents pretrain/vanilla three", "'three'", "should be a valid integer"),
    ("twin quickstart --match flops", "'flops'", "'training-flops'"),
    # presets and their files
    ("run quikstart", "'quikstart'", "did you mean quickstart?"),
    ("run Quickstart", "'Quickstart'", "did you mean quickstart?"),
    ("plan quickstart-hidra", "'quickstart-hidra'", "did you mean quickstart-hydra?"),
    ("presets polychromatic-700m", "'polychromatic-700m'", "did you mean polychromatic-600m?"),
    ("twin quikstart", "'quikstart'", "did you mean quickstart?"),
    ("run quickstart.yml", "quickstart.yml: No such file", "did you mean quickstart?"),
    ("run notes.txt", "'notes.txt'", "give a .yaml file"),
    ("run missing.yaml", "missing.yaml: No such file", "give a YAML file"),
    ("run empty.yaml", "empty.yaml must hold keys", "'extends: quickstart'"),
    ("run words.yaml", "'just some words'", "'extends: quickstart'"),
    ("run open.yaml", "open.yaml is no YAML: line 3, column 1", "expected ',' or '}'"),
    ("run tab.yaml", "line 3, column 1: found character '\\t'", "indent with spaces"),
    ("run twice.yaml", "line 3, column 1: pretrain is there for the second time", "make one of the two"),
    ("run bare.yaml", "model is missing", "`extends: quickstart`"),
    ("run short.yaml", "model, pretrain.steps, pretrain.peak_lr are missing", "give them values"),
    ("run 'My Run.yaml'", "name='My Run'", "Lower-case letters, digits"),
    ("run named.yaml", "name='Notes!'", "Lower-case letters, digits"),
    ("run base.yaml", "no preset 'quikstart'", "did you mean quickstart?"),
    ("run self.yaml", "extends itself", "self.yaml -> self.yaml"),
    ("run list.yaml", "data.sources.notes.path=['a.txt', 'b.txt']", "a file, folder or glob"),
    ("run chats.yaml", "sft.source.path=['a.jsonl', 'b.jsonl']", "a file, folder or glob"),
    ("run files.yaml", "data.sources=['a.txt', 'b.txt']", "name each entry"),
    ("run tasks.yaml", "evaluate.tasks=['gsm8k']", "name each entry"),
    ("run both.yaml", "data.sources.notes: give exactly one of builtin, path, hub", "got path, hub"),
    ("run nowhere.yaml", "data.sources.notes: give exactly one of builtin, path, hub", "got none"),
    ("run spaced.yaml", "'My Notes'", "source names are lower-case letters"),
    # fields
    ("run quickstart --set pretrain.steps", "--set pretrain.steps", "key=value"),
    ("run quickstart --set pretran.steps=3", "pretran", "did you mean pretrain?"),
    ("run quickstart --set pretrain.stpes=3", "pretrain.stpes=3", "did you mean steps?"),
    ("run quickstart --set steps=3", "steps=3", "did you mean pretrain.steps or sft.train.steps?"),
    ("run quickstart --set model.n_layer=3", "model.n_layer=3", "did you mean n_layers?"),
    ("run quickstart --set pretrain.steps=1e3", "pretrain.steps='1e3'", "should be a valid integer"),
    ("run quickstart --set pretrain.steps=0", "pretrain.steps=0", "greater than or equal to 1"),
    ("run quickstart --set pretrain.peak_lr=high", "pretrain.peak_lr='high'", "should be a valid number"),
    ("run quickstart --set pretrain.batch_tokens=1000", "batch_tokens=1000", "multiple of seq_len_tokens=128"),
    ("run quickstart --set pretrain.seq_len_tokens=1024", "seq_len_tokens=1024", "model.max_seq_len=512"),
    ("run quickstart --set model.n_heads=3", "n_heads=3", "n_kv_heads=2 must divide"),
    ("run quickstart --set model.family=hidra", "model.family='hidra'", "did you mean hydra?"),
    ("run quickstart --set model.family=llama", "model.family='llama'", "'vanilla'"),
    ("run quickstart --set model.hydra.experts=4", "section hydra belongs to family=hydra", "family=polychromatic"),
    ("run quickstart --set pretrain.optimizer=adam", "pretrain.optimizer='adam'", "did you mean adamw?"),
    ("run quickstart --set pretrain.schedule=cosin", "pretrain.schedule='cosin'", "did you mean cosine?"),
    ("run quickstart --set runtime.device=gpu", "runtime.device='gpu'", "'cuda'"),
    ("run quickstart --set runtime.wandb=on", "runtime.wandb='on'", "'offline' or 'online'"),
    ("run quickstart --set tokenizer.vocab_size=100", "tokenizer.vocab_size=100", "greater than or equal to 300"),
    ("run quickstart --set data.sources.math.builtin=wordproblems", "'wordproblems'", "did you mean word-problems?"),
    ("run quickstart --set data.sources.notes.path=notes.txt", "data.mixture.start names", "mixture: {start: {math: 1"),
    # what a plan looks at
    ("plan quickstart --on H1000", "--on H1000", "did you mean H100?"),
    ("plan quickstart --on rtx5090", "--on rtx5090", "did you mean RTX 5090?"),
    ("plan quickstart --set evaluate.tasks.x.name=gsm8", "'gsm8'", "did you mean gsm8k?"),
    ("plan quickstart --set evaluate.tasks.x.name=word_problem", "'word_problem'", "did you mean word_problems?"),
    ("plan quickstart --set data.sources.math.path=no.txt", "no.txt: no such file", "correct the path"),
    ("plan quickstart --set data.sources.math.path=*.md", "*.md: the pattern matches no file", "correct it"),
    ("plan quickstart --set data.sources.math.path=picture.png", "suffix '.png'", "readable are .txt"),
    ("plan quickstart --set sft.source.path=notes.txt", "suffix '.txt'", "readable are .jsonl"),
    ("plan quickstart --set tokenizer.path=no.json", "no.json does not exist", "give a tokenizer.json"),
    # models and what is stored
    ("models polychromatic-600", "'polychromatic-600'", "did you mean polychromatic-600m?"),
    ("show nothing", "'nothing'", "athanor artifacts"),
    ("generate sft/nothing hello", "sft/nothing", "athanor artifacts"),
    ("generate . hello", "holds neither model.safetensors", "give the folder"),
    ("documents pretrain/nothing 3", "pretrain/nothing", "athanor artifacts"),
    ("runs show nothing", "'nothing'", "athanor runs list"),
    ("runs compare pretrain/vanilla", "compare needs two runs", "athanor runs list"),
    ("runs query 'select * from step'", "no such table: step", "select sql from sqlite_schema"),
    ("runs query 'drop table steps'", "query: only SELECT", "made from the runs' logs"),
    ("export-checkpoint . out.pt --layout polychrome", "'polychrome'", "did you mean polychromatic?"),
    ("import-checkpoint a.pt --layout hugin --tokenizer t --out o", "'hugin'", "did you mean huginn?"),
)  # fmt: skip


@pytest.fixture
def beginner(athanor, logged_run, tmp_path, monkeypatch):
    """Runs a command line in a folder with FILES, with one run begun."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    logged_run("a", [3.0, 2.9])

    def run(*arguments, **options):
        raise AssertionError("the mistake was not noticed, and is built")

    monkeypatch.setattr(run_flow, "run_flow", run)
    return lambda line: athanor(*shlex.split(line))


@pytest.mark.parametrize(("line", "value", "remedy"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_a_mistake_is_answered_in_one_line_with_the_value_and_the_remedy(beginner, line, value, remedy):
    done = beginner(line)
    assert done.returncode == 2
    assert value in done.stderr and remedy in done.stderr
    assert done.stderr.startswith("athanor: ") and done.stderr.count("\n") == 1
    assert not done.stdout or (line.startswith("plan ") and done.stdout.count("\n") == 1)  # what would be planned
    assert not any(word in done.stderr for word in ("Traceback", "<unicode", "^[", "NoneType"))


def test_all_mistakes_of_a_preset_are_answered_a_line_each_the_likeliest_causes_first(beginner):
    done = beginner("run spelt.yaml --set model.d_modle=3 --set model.d_ff=x --set sft.train.peak_lr=-1")
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and all(line.startswith("athanor: preset spelt.yaml: ") for line in lines)
    for line, said in zip(lines, ("d_modle=3; did you mean d_model?", "stepz=3; did you mean steps?"), strict=False):
        assert said in line
    assert "pretrain.steps is missing" in lines[2]
    assert "model.d_ff='x': " in lines[3] and "sft.train.peak_lr=-1: " in lines[4] and len(lines) == 5


def test_no_mistake_stands_in_the_list_twice_and_there_are_sixty_at_least():
    assert len({line for line, *_ in MISTAKES}) == len(MISTAKES) >= 60
