"""Two causal convolutions along time, one after the other: first per channel, then mixing the channels of a head.

    a[t] = b1 + sum_{j < K1} w1[:, K1-1-j] * x[t-j]
    y[t] = b2 + sum_{j < K2} W2[:, :, K2-1-j] a[t-j]        (W2 block-diagonal, one d x d block a head)

The reach is K1 + K2 - 2 tokens back, and never beyond the document: what lies before its first token reads as
x = 0, hence a = b1, as if the document stood alone behind one zero padding. That is not the same as padding each
convolution by itself unless b1 = 0.

Bytes moved per element: forward reads x, writes and reads a, writes y; each tap is one fused multiply-add.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_conv_pair(
    x_BSC: Tensor,
    age_BT: Tensor,
    depthwise_CK: Tensor,
    depthwise_bias_C: Tensor | None,
    mixing_CdK: Tensor,
    mixing_bias_C: Tensor | None,
) -> Tensor:
    """y `[B, T, C]` of the newest T positions, in x's dtype.

    `x_BSC` holds K1 + K2 - 2 earlier positions and then those T (anything where the row has no earlier ones);
    `age_BT` int64 is how many tokens of its own document precede each of the T; weights are laid out as
    torch.nn.Conv1d's, `mixing_CdK` with C / d groups of d channels. Source: CCA (Zyphra 2025), as in ZAYA1.
    """
    taps_1, taps_2 = depthwise_CK.shape[-1], mixing_CdK.shape[-1]
    length, width = age_BT.shape[1], mixing_CdK.shape[1]
    # Positions before the newest T matter only to documents that began before them: the age counts on backwards.
    earlier = torch.arange(taps_2 - 1, 0, -1, device=age_BT.device)
    age_BU = torch.cat((age_BT[:, :1] - earlier, age_BT), dim=1)
    a_BUC = _shifted(x_BSC, 0, age_BU.shape[1]) * depthwise_CK[:, -1]
    for j in range(1, taps_1):
        within = (age_BU >= j)[:, :, None]
        a_BUC = a_BUC + torch.where(within, _shifted(x_BSC, j, age_BU.shape[1]), 0) * depthwise_CK[:, -1 - j]
    if depthwise_bias_C is not None:
        a_BUC = a_BUC + depthwise_bias_C
    mixing_HdeK = mixing_CdK.unflatten(0, (-1, width))
    outside = 0 if depthwise_bias_C is None else depthwise_bias_C.to(a_BUC.dtype)
    tapped = []
    for j in range(taps_2):
        a_BTC = torch.where((age_BT >= j)[:, :, None], _shifted(a_BUC, j, length), outside)
        tapped.append(torch.einsum("bthe,hde->bthd", a_BTC.unflatten(2, (-1, width)), mixing_HdeK[..., -1 - j]))
    y_BTC = torch.stack(tapped).sum(0).flatten(2) if taps_2 > 1 else tapped[0].flatten(2)
    if mixing_bias_C is not None:
        y_BTC = y_BTC + mixing_bias_C
    return y_BTC.to(x_BSC.dtype)


def _shifted(x_BSC: Tensor, back: int, length: int) -> Tensor:
    """The newest `length` positions of x, each replaced by the one `back` before it."""
    end = x_BSC.shape[1] - back
    return x_BSC[:, end - length : end]
