"""What a run starts from: its description, the seeds, the model, the bytes behind each token."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from athanor.core.errors import UserError
from athanor.core.run_files import SPEC
from athanor.core.validation import mistakes
from athanor.models.build import build_model
from athanor.models.checkpoints.portable import load_portable
from athanor.models.skeleton import LanguageModel
from athanor.tasks.trainer.train_recipe import RunSpec


def read_spec(run_dir: Path) -> RunSpec:
    """The run's description. Raises UserError when `run.json` is missing or not valid."""
    path = run_dir / SPEC
    try:
        return RunSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the folder of a run") from None
    except ValidationError as error:
        raise UserError(f"{path}: {mistakes(error)}") from None


def seed_everything(seed: int) -> None:
    """Fix the global generators; the models draw from none of them, a library might."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def starting_model(spec: RunSpec, device: torch.device) -> LanguageModel:
    """The model before the first step, in training mode: new weights by the seed, or those of a checkpoint, in fp32.

    A checkpoint's schedules stand where its pretraining ended. Raises UserError when there is none to fine-tune, or
    another one.
    """
    if spec.objective == "pretrain" and spec.init_dir is None:
        with torch.device(device):
            model = build_model(spec.model)
        model.init_weights(spec.train.seed)
        return model.train()
    if spec.init_dir is None:
        raise UserError(f"{SPEC}: objective=sft needs `init_dir`, a portable checkpoint to start from; got none")
    model = load_portable(Path(spec.init_dir), device)
    if model.recipe != spec.model:
        raise UserError(f"{SPEC}: model is not the model of init_dir={spec.init_dir}; copy its config.json")
    model.apply_schedule(model.schedule(1.0))
    return model.float().train()


def token_bytes(spec: RunSpec) -> torch.Tensor:
    """UTF-8 bytes of each id, int64 [V]. Raises UserError where the tokenizer has none or is not the model's."""
    path = Path(spec.tokenizer_dir) / "token_bytes.npy"
    if not path.is_file():
        raise UserError(f"{path} does not exist; build the tokenizer again")
    bytes_V = np.load(path, allow_pickle=False)
    if spec.model.vocab_size is None or len(bytes_V) > spec.model.vocab_size:
        raise UserError(
            f"{SPEC}: model.vocab_size={spec.model.vocab_size} is too small for the tokenizer in "
            f"{spec.tokenizer_dir}, which has {len(bytes_V)} ids"
        )
    return torch.from_numpy(bytes_V).long()
