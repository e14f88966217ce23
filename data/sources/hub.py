"""Hugging Face data sets, streamed through `datasets`; nothing is stored but the documents we keep.

The token is read from HF_TOKEN, handed to `datasets` and never written, logged or put into a message.
HF_ENDPOINT and HF_HUB_OFFLINE are honoured, as by `datasets` itself. Only data set formats that hold plain
records are opened: others can unpickle or decode what a stranger wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from athanor.core.errors import UserError
from athanor.data.data_recipe import SourceRecipe
from athanor.data.hub_access import Repository
from athanor.data.hub_commits import commit_of
from athanor.data.sources.records import Raw, columns_read
from athanor.data.sources.source import Source

FORMATS = ("arrow", "csv", "json", "parquet", "text")


def read_hub(recipe: SourceRecipe, fields: Sequence[str]) -> Iterator[Raw]:
    """Records of the recipe's split in the data set's own order, with at least `fields` where they exist.

    Raises UserError naming the id and the remedy when the data set is unknown, gated or out of reach, has
    no such configuration, split or column, or when the stream breaks off.
    """
    name = f"{recipe.hub}/{recipe.split}"
    try:
        for number, record in enumerate(_stream(recipe, fields), start=1):
            yield Raw(record, name, number)
    except UserError:
        raise
    except Exception as error:  # requests, httpx, fsspec, pyarrow and datasets each have their own
        raise UserError(_explain(recipe, error)) from None


ORIGIN = Source(
    name="hub",
    read=read_hub,
    identity=lambda recipe: {"hub": recipe.hub, "config": recipe.hub_config, "commit": commit_of(_repository(recipe))},
    read_bytes_per_s=10e6,
    document_bytes=4000,
    whole_bytes=lambda recipe, identity: None,
    title=lambda recipe: f"hub {recipe.hub}",
    repository=lambda recipe: _repository(recipe),
)


def _repository(recipe: SourceRecipe) -> Repository:
    return Repository("dataset", str(recipe.hub), recipe.hub_revision, streamed=True)


def _stream(recipe: SourceRecipe, fields: Sequence[str]) -> Any:
    import datasets

    hub_id = str(recipe.hub)
    if os.path.exists(hub_id):
        raise UserError(f"hub {hub_id}: a local file or folder has this name; give it as `path`, or move it")
    revision = commit_of(_repository(recipe)) or recipe.hub_revision
    builder = datasets.load_dataset_builder(
        hub_id, recipe.hub_config, revision=revision, token=os.environ.get("HF_TOKEN") or None
    )
    kind = type(builder).__module__.split(".")[-1]
    if kind not in FORMATS:
        raise UserError(f"hub {hub_id}: format {kind!r} is not opened; readable are {', '.join(FORMATS)}")
    stream: Any = builder.as_streaming_dataset(split=recipe.split)
    if not stream.features:
        return stream
    return stream.select_columns(columns_read(fields, list(stream.features), f"hub {hub_id}"))


def _explain(recipe: SourceRecipe, error: Exception) -> str:
    """One line for whatever `datasets` raised. It re-raises `from None`, so some causes show in its text alone."""
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled

    name, text, token = f"hub {recipe.hub}", str(error), os.environ.get("HF_TOKEN")
    if isinstance(error, GatedRepoError) or "gated dataset" in text:
        page = f"https://huggingface.co/datasets/{recipe.hub}"
        if token:
            return f"{name}: gated, and HF_TOKEN has no access yet; ask for it at {page}"
        return f"{name}: gated; ask for access at {page} and set HF_TOKEN"
    if isinstance(error, DatasetNotFoundError | HFValidationError):
        at = f" at revision {recipe.hub_revision}" if recipe.hub_revision else ""
        remedy = "and that HF_TOKEN may read it" if token else "or set HF_TOKEN"
        return f"{name}: not found{at} or private; check the spelling, {remedy}"
    if isinstance(error, DataFilesNotFoundError):
        return f"{name}: holds no data files; readable are {', '.join(FORMATS)}"
    if isinstance(error, OfflineModeIsEnabled) or OfflineModeIsEnabled.__name__ in text:
        return f"{name}: offline mode is on; unset HF_HUB_OFFLINE or give local files as `path`"
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
        return f"{name}: out of reach ({type(error).__name__}); check the network and run the same command again"
    return f"{name}: {_without_token(text)}"


def _without_token(message: str) -> str:
    """The message as one line of bounded length, the token blotted out."""
    token = os.environ.get("HF_TOKEN")
    line = " ".join(message.split())[:300]
    return line.replace(token, "<HF_TOKEN>") if token else line
