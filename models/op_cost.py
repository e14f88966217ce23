"""What one operation of torch moves and computes, from the shapes of its arguments and results alone.

Every input is read once and every output written once; what is written in place is read as well, unless it is only
overwritten. An expanded tensor is as large as what it expands. Look-ups read, and scattered writes touch, the places
they are told and not the whole table. A view moves nothing and launches nothing. One operation is one launch.

FLOPs are those of products, 2 per multiply-add, by torch.utils.flop_counter's formulas; attention without a mask skips
the half of the scores that causality hides, with a mask it computes all. What is elementwise is bound by its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# fmt: off
Kind = Literal[
    "products", "attention", "elementwise", "reductions", "copies", "gather/scatter", "scans and sorts", "kernels",
    "other",
]
Rate = Literal[
    "product", "fp32 product", "attention", "attention backward", "masked attention", "masked attention backward"
]
# fmt: on

_NOTHING = {"_unsafe_view", "_local_scalar_dense", "promote_types", "device", "empty", "empty_like", "new_empty"} | {
    *("empty_strided", "new_empty_strided", "lift_fresh", "_reshape_alias", "alias")
}
_OVERWRITES = {"copy_", "fill_", "zero_"}  # in place, without reading what was there
_COPIES = {"_to_copy", "clone", "copy", "cat", "stack", "constant_pad_nd", "full", "zeros", "ones", "full_like"} | {
    *("zeros_like", "ones_like", "new_zeros", "new_full", "new_ones", "arange", "scalar_tensor", "flip", "roll"),
    *("repeat", "fill", "slice_backward", "select_backward", "split_with_sizes_copy", "_assert_async", "tril", "triu"),
}
_LOOKS_UP = {"embedding", "index", "index_select", "gather", "take", "masked_select"}
_SCATTERS = {"scatter", "scatter_add", "scatter_reduce", "index_add", "index_put", "_index_put_impl", "index_copy"} | {
    "index_fill"
}
_REDUCTIONS = {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "bincount"} | {
    *("native_layer_norm", "native_layer_norm_backward", "_fused_rms_norm", "_fused_rms_norm_backward", "norm"),
    *("linalg_vector_norm", "max", "min", "argmax", "argmin", "logsumexp", "var_mean", "count_nonzero"),
}
_SCANS = {
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
    "logcumsumexp",
    "sort",
    "topk",
    "kthvalue",
    "searchsorted",
    "argsort",
}


class OpCost(NamedTuple):
    """Of one call. `rate` says how fast its FLOPs go, `flops` is 0 where only bytes count."""

    name: str
    kind: Kind
    read_bytes: int
    written_bytes: int
    flops: int = 0
    rate: Rate = "product"


def op_cost(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> OpCost | None:
    """The cost of `func(*args, **kwargs)`, an operator overload that returned `result`; None if nothing is launched."""
    name = func._schema.name.partition("::")[2]
    if func.is_view or name in _NOTHING:
        return None
    outputs = _tensors(result)
    written = _written(func, args, kwargs)
    if not outputs and not written:
        return None
    kind = _kind(func, name)
    flops, rate = _flops(func, kind, args, kwargs, outputs)
    if kind == "gather/scatter":
        read_bytes, written_bytes = _scattered(name, args, kwargs, outputs, written)
    else:
        only_written = {id(tensor) for tensor in written if name in _OVERWRITES or _tagged(func, "out")}
        inputs = (tensor for tensor in _tensors((args, kwargs)) if id(tensor) not in only_written)
        read_bytes, written_bytes = _bytes(inputs), _bytes((*outputs, *written))
    return OpCost(name, kind, read_bytes, written_bytes, flops, rate)


def _tagged(func: Any, tag: str) -> bool:
    """By name: torch 2.11 lacks some tags."""
    return any(found.name == tag for found in func.tags)


def addressed_bytes(tensor: Tensor) -> int:
    """Bytes of the elements that lie in memory: an expanded dimension counts once."""
    return tensor.element_size() * math.prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size
    )


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(addressed_bytes(tensor) for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that are written to."""
    if not func._schema.is_mutable:
        return []
    named = func._schema.arguments
    given = [*zip(named, args, strict=False), *((one, kwargs[one.name]) for one in named if one.name in kwargs)]
    return _tensors([value for one, value in given if one.alias_info is not None and one.alias_info.is_write])


@cache
def _kind(func: Any, name: str) -> Kind:
    plain = name.removesuffix("_").removesuffix("_backward")
    if "scaled_dot_product" in name or "flash_attention" in name or "efficient_attention" in name:
        return "attention"
    if func.namespace not in ("aten", "prims"):
        return "kernels"
    if func._overloadpacket in flop_registry or plain == "_grouped_mm":
        return "products"
    if plain in _LOOKS_UP | _SCATTERS or name.startswith("embedding"):
        return "gather/scatter"
    if name in _COPIES or plain in _COPIES or name in _OVERWRITES:
        return "copies"
    if plain in _SCANS:
        return "scans and sorts"
    if _tagged(func, "reduction") or name in _REDUCTIONS:
        return "reductions"
    if _tagged(func, "pointwise") or name.endswith("_backward"):
        return "elementwise"
    return "other"


def _flops(
    func: Any, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
) -> tuple[int, Rate]:
    if kind == "products" and func._overloadpacket in flop_registry:
        dtype = next(tensor.dtype for tensor in _tensors(args))
        flops = flop_registry[func._overloadpacket](*args, **kwargs, out_val=outputs[0] if outputs else None)
        return flops, "fp32 product" if dtype in (torch.float32, torch.float64) else "product"
    if kind == "attention":
        return _attention_flops(func, args, kwargs)
    return 0, "product"


def _attention_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, Rate]:
    """q k^T and p v forward; backward q k^T again, dv, dp, dq and dk."""
    given = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | kwargs
    query, key, value = given["query"], given["key"], given["value"]
    scores = query.shape[:-1].numel() * key.shape[-2]
    if "scores" in given:  # of one head of a row: models/gpu_attention.py
        scores = query.shape[0] * query.shape[2] * given["scores"]
    masked = given.get("attn_mask", given.get("attn_bias")) is not None
    if given.get("is_causal"):  # which no mask may be given beside
        scores //= 2
    width, value_width = query.shape[-1], value.shape[-1]
    if func._schema.name.endswith("backward"):
        return 2 * scores * (3 * width + 2 * value_width), "masked attention backward" if masked else (
            "attention backward"
        )
    return 2 * scores * (width + value_width), "masked attention" if masked else "attention"


def _scattered(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor], written: list[Tensor]
) -> tuple[int, int]:
    """Bytes read and written by a look-up, by a scatter in place, and by one into a copy."""
    table, *others = _tensors((args, kwargs))
    told = _bytes(others)
    if name.startswith("embedding") and name.endswith("backward"):
        return _bytes((table, *others)), _bytes(outputs)
    if name in _LOOKS_UP:
        found = _bytes(outputs)
        return told + min(found, addressed_bytes(table)), found
    places = max((other.numel() for other in others), default=0)
    touched = min(addressed_bytes(table), places * table.element_size())
    if written:
        return told + touched, touched
    return told + addressed_bytes(table), addressed_bytes(table)
