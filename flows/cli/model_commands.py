"""The commands of `athanor` that deal with single models: sizes, foreign checkpoints, generation.

Heavy packages are imported inside the commands, as in flows/cli/main.py.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from athanor.core.errors import UserError
from athanor.core.near import did_you_mean
from athanor.flows.cli.completing import models_beginning
from athanor.flows.cli.options import PresetName

if TYPE_CHECKING:
    pass

app = typer.Typer()


class Match(StrEnum):
    """In what a vanilla twin equals its model."""

    parameters = "parameters"
    training_flops = "training-flops"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


ModelPlace = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A preset that has run, for its last model (pretrain/PRESET: its base); an artifact, of whose name or key "
        "a prefix will do; or a folder",
        autocompletion=models_beginning,
    ),
]
LayoutOption = Annotated[str, typer.Option("--layout", help="The published system that is to read it")]


@app.command()
def models(
    size: Annotated[str | None, typer.Argument(metavar="[SIZE]", help="Print this size as YAML for a preset")] = None,
    context_tokens: Annotated[
        int | None, typer.Option(min=1, help="Row length FLOPs and cache are counted at; default: each model's longest")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Exact numbers, one JSON object per line")] = False,
) -> None:
    """List every named size with its true counts: parameters, FLOPs per token, bytes of cache per token.

    Below each size, its parameters by part. `active` are those that one token passes through. Forward and backward
    count the matrix products of one training token, 2 FLOPs per multiply-add, in a row of --context-tokens. The cache
    is that of one row of this length while decoding, in bf16, per token. Nothing is downloaded or allocated.
    """
    import yaml

    from athanor.core.numbers import compact, memory, quantity
    from athanor.models.sizes import SIZES

    if size is not None:
        if size not in SIZES:
            raise UserError(f"no size {size!r}: {did_you_mean(size, SIZES)}there are {', '.join(SIZES)}")
        fields = SIZES[size].model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        print(yaml.safe_dump({"model": fields}, sort_keys=False), end="")
        return
    every = ((name, _counts(recipe, context_tokens)) for name, recipe in SIZES.items())
    if as_json:
        for name, counts in every:
            print(json.dumps({"size": name, **counts}))
        return
    columns = ("parameters", "active", "forward", "backward", "cache")
    print(("{:23}" + "{:>14}" * 2 + "{:>9}" * 2 + "{:>11}").format("size", *columns))
    for name, counts in every:
        totals = [f"{counts[key]:,}" for key in ("total", "active")]
        figures = [quantity(counts["forward_flops"]), quantity(counts["backward_flops"]), memory(counts["cache_bytes"])]
        print(("{:23}" + "{:>14}" * 2 + "{:>9}" * 2 + "{:>11}").format(name, *totals, *figures))
        print("    " + ", ".join(f"{part} {compact(number)}" for part, number in counts["parts"].items()))


@app.command()
def twin(
    preset: PresetName,
    match: Annotated[Match, typer.Option(help="What the two are to have in common, within 1 %")] = Match.parameters,
) -> None:
    """Print the control of a preset: the same run with a vanilla model (GQA + SwiGLU) of equal cost.

    Save it as a .yaml file and `athanor run` it; the two reports then differ in the architecture alone. The twin keeps
    width, depth, heads and vocabulary where that gives a model one would train (heads of 64 to 128, d_ff of 2.5 to 4
    widths), and only its d_ff is solved for; otherwise width and depth are scaled as well.
    """
    import yaml

    from athanor.flows.presets.preset import load_preset
    from athanor.models.family import FAMILIES
    from athanor.models.twin import vanilla_twin

    whole = load_preset(preset)
    if whole.pretrain is None or whole.model.checkpoint is not None:
        raise UserError(
            f"{preset} starts from a checkpoint, and a twin from random weights: name the preset that made it"
        )
    vocab_size = whole.model.vocab_size or whole.tokenizer.vocab_size
    recipe = whole.model.recipe.model_copy(update={"vocab_size": vocab_size})
    found = vanilla_twin(recipe, match.value, whole.pretrain.seq_len_tokens)
    shape = ("d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff")
    changed = [name for name in shape if getattr(found, name) != getattr(whole.model, name) or name == "d_ff"]
    sections = {name: None for name in FAMILIES if getattr(whole.model, name, None) is not None}
    fields = {
        "extends": preset,
        "name": f"{whole.name}-vanilla",
        "description": f"The control of {whole.name} - vanilla with equal {match.value}",
        "model": {"family": "vanilla", **{name: getattr(found, name) for name in changed}, **sections},
    }
    print(yaml.safe_dump(fields, sort_keys=False), end="")


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt or .safetensors file, or a folder of them")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist")],
    layout: Annotated[str | None, typer.Option(help="Of which published system it is; default: what it says")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The tokenizer.json it was trained with, or its folder; default: beside it")
    ] = None,
    eos: Annotated[str | None, typer.Option(help="The tokenizer's end-of-document token; default: its own")] = None,
) -> None:
    """Turn a published checkpoint into one of ours, which `generate` reads.

    A preset needs no import: its model.checkpoint takes what is published as it is.

    llama, qwen3, gpt2, gemma2: Hugging Face's folder of one, with plain rotations.

    polychromatic: a .pt with the tensors under `model_state_dict` or `model`. It is imported with the published gate,
    which averages over the whole row; set model.polychromatic.pool to causal in OUT/config.json to decode it cached.

    huginn: the released folder (model.safetensors.index.json, shards, config.json), or a state dict with a config.json
    beside it.

    Nothing in the file is run: what is not tensors and plain values is refused.
    """
    from athanor.data.data_recipe import TokenizerRecipe
    from athanor.data.tokenizer import build_tokenizer
    from athanor.models.checkpoints.foreign import import_portable, layout_named
    from athanor.models.checkpoints.found import tokenizer_of

    _one_line_warnings()
    if layout is not None:
        layout_named(layout)
    own, own_eos = tokenizer_of(tokenizer or file)
    if tokenizer is None and own is None:
        raise UserError(f"{file} has no tokenizer.json beside it: give the one it was trained with as --tokenizer")
    recipe = TokenizerRecipe.model_validate({"path": str(tokenizer or own), "eos": eos or own_eos})
    with TemporaryDirectory(prefix="athanor-tokenizer-") as scratch:
        made = Path(scratch)
        build_tokenizer(recipe, iter(()), made)
        imported = import_portable(file, layout, made, out)
    total = sum(parameter.numel() for parameter in imported.model.parameters())
    steps = "" if imported.steps is None else f", step {imported.steps:,}"
    print(f"wrote {out}: {imported.model.recipe.family}, {total:,} parameters{steps}")
    print(f'next: athanor generate {shlex.quote(str(out))} "..."')


@app.command()
def export_checkpoint(
    model: ModelPlace,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New .pt file (polychromatic) or folder (huginn)")],
    layout: LayoutOption,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Optimizer steps it was trained for; default: what its own log says")
    ] = None,
) -> None:
    """Write a model of ours as the published code reads it: weights and, for polychromatic, step and tau.

    Weights come out bit for bit. What their code computes differently with them is printed.
    """
    from athanor.models.checkpoints.foreign import export_checkpoint, layout_named, steps_trained, written_layouts
    from athanor.models.checkpoints.portable import load_portable

    _one_line_warnings()
    keeps_steps = layout_named(layout, written_layouts()).keeps_steps
    folder = _model_folder(model)
    steps = steps if steps is not None else steps_trained(folder)
    if steps is None and keeps_steps:
        raise UserError(f"{folder} does not say how many steps it was trained for: give --steps")
    caveat = export_checkpoint(load_portable(folder), out, layout, steps or 0)
    print(f"wrote {out}")
    print(f"note: their code {caveat}")


@app.command()
def generate(
    model: ModelPlace,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to go on from")],
    chat: Annotated[bool, typer.Option("--chat", help="The text is a user's message to a fine-tuned model")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Stop after so many tokens")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; 1 samples as the model says")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the likeliest that together have this probability")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Sample among those as likely as this share of the likeliest")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; repeatable")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same text")] = 0,
    device: Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one")] = Device.auto,
) -> None:
    """Continue a text, shown as it is made. Ends at the model's end-of-text, at --stop, or after --max-new-tokens.

    athanor generate quickstart "Ada has 3 eggs and buys 4. How many has she?" --chat
    """
    import torch

    from athanor.core.runtime import Runtime
    from athanor.data.chatml import answer_ends, encode_prompt
    from athanor.data.tokenizer import load_tokenizer
    from athanor.models.checkpoints.portable import load_portable
    from athanor.models.decoding.generate import stream_text
    from athanor.models.decoding.sampling import Sampling
    from athanor.models.device import choose_device, choose_precision, set_up

    _one_line_warnings()
    sampling = Sampling(temperature, top_k, top_p, min_p)
    set_up(Runtime())
    where = choose_device(device.value)
    folder = _model_folder(model)
    _say_where_the_other_was_meant(folder, model, chat)
    tokenizer, network = load_tokenizer(folder), load_portable(folder, where)
    if chat:
        ids, (ends, end_ids) = encode_prompt([{"role": "user", "content": prompt}], tokenizer), answer_ends(tokenizer)
    else:
        ids, (ends, end_ids) = tokenizer.encode(prompt) or [tokenizer.eos_id], ((), ())
    if len(ids) >= (limit := network.recipe.max_seq_len):
        raise UserError(f"the prompt has {len(ids)} tokens and leaves no room for an answer: the model takes {limit}")
    precision = choose_precision("auto", where)
    pieces = stream_text(
        network,
        tokenizer,
        [ids],
        max_new_tokens=max_new_tokens,
        stops=(*(stop or ()), *ends),
        stop_ids=end_ids,
        sampling=sampling,
        seed=seed,
    )
    with torch.autocast(where.type, precision, enabled=precision != torch.float32):
        for _, piece in pieces:
            print(piece, end="", flush=True)
    print()


def _model_folder(text: str) -> Path:
    """The portable checkpoint that `text` means (tasks/model_place.py). UserError if there is none."""
    from athanor.models.checkpoints.files import TOKENIZER_META, WEIGHTS, weight_files
    from athanor.tasks.model_place import find_model

    place = find_model(text)
    if weight_files(place.path) and not all((place.path / name).is_file() for name in (WEIGHTS, TOKENIZER_META)):
        raise UserError(f"{place.path} is a published checkpoint: `athanor import-checkpoint {text} --out NEW` first")
    if place.note:
        _say(place.note)
    return place.path


def _say_where_the_other_was_meant(folder: Path, name: str, chat: bool) -> None:
    """One line where a base model is talked to, or a fine-tuned one is not."""
    from athanor.tasks.model_place import trained_for

    objective = trained_for(folder)
    if chat and objective == "pretrain":
        _say(f"{name} is a base model: it was never shown a conversation and goes on as text does; leave --chat out")
    if not chat and objective == "sft":
        _say(f"{name} was fine-tuned on conversations: --chat puts the text to it as a user's message")


def _say(message: str) -> None:
    print(f"athanor: {message}", file=sys.stderr)


def _counts(recipe, context_tokens: int | None) -> dict:
    """Every count of a recipe, by the names of `athanor models --json`."""
    from athanor.models.counts import cache_bytes_per_token, flops_per_token, parameter_counts

    tokens = context_tokens or recipe.max_seq_len
    parts = parameter_counts(recipe)
    totals = {name: parts.pop(name) for name in ("total", "active")}
    flops = flops_per_token(recipe, tokens)
    return {
        "family": recipe.family,
        **totals,
        "parts": {part: number for part, number in parts.items() if number},
        "context_tokens": tokens,
        "forward_flops": flops.forward,
        "backward_flops": flops.backward,
        "cache_bytes": cache_bytes_per_token(recipe, tokens),
    }


def _one_line_warnings() -> None:
    """Warnings as one line on stderr, without the place in the code that gave them."""
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"athanor: {message}\n"
