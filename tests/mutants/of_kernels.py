"""Mutants of `kernels`, held by the kernels' own tests."""

from mutant import Mutant


def _of(name: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    file, tests = f"kernels/{name}.py", (f"tests/kernels/test_{name}.py",)
    return [Mutant(file, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "rope",
        ("(x_BTHd).chunk(2, dim=-1)", "(x_BTHd).unflatten(-1, (-1, 2)).unbind(-1)", "half-split pairs"),
        ("unflatten(-1, (-1, 2)).unbind(-1)", "chunk(2, dim=-1)", "interleaved pairs"),
        ("low * sin + high * cos", "high * cos - low * sin", "sense of rotation, half-split"),
        ("even * sin + odd * cos", "odd * cos - even * sin", "sense of rotation, interleaved"),
        ("dim=-1).flatten(-2)", "dim=-2).flatten(-2)", "interleaved channels come back to their places"),
        ("1.0 / base**exponents", "1.0 / 10_000.0**exponents", "RoPE base"),
        ("1.0 / base**exponents", "base**-exponents", "frequencies are rounded as published"),
        ("position_BT.float() / factor", "position_BT.float() * factor", "linear scaling divides positions"),
        ("device=position_BT.device) / head_dim", "device=position_BT.device) / (2 * head_dim)", "frequency exponents"),
    ),
    *_of(
        "rms_norm",
        ("fine_gain, eps)", "fine_gain, 1e-6)", "eps of the norm"),
        ("None if gain is None else at_least_fp32(gain)", "None", "gain of the norm"),
    ),
    *_of(
        "dynamic_tanh",
        ("fine_alpha * fine_x", "fine_x", "alpha of dynamic tanh"),
        ("addcmul(fine_bias, fine_gain,", "addcmul(fine_gain, fine_bias,", "gain and bias of dynamic tanh"),
    ),
    *_of("swiglu", ("F.silu(u_BTF) * v_BTF", "F.silu(v_BTF) * u_BTF", "gate and value of SwiGLU")),
    *_of(
        "span",
        ("& (key <= query)", "& (key <= query + 1)", "causality"),
        ("in_document = (key >= doc_start) & (", "in_document = (", "documents do not see each other"),
        ("(query - key < window)", "(query - key <= window)", "the window counts the query itself"),
        ("(key - doc_start < sink)", "(key < sink)", "sinks are the document's own"),
        ("(key - doc_start < sink)", "(key - doc_start <= sink)", "number of sinks"),
        ("torch.arange(self.offset, self.offset + self.queries", "torch.arange(self.queries", "where queries stand"),
        (".tril(keys - queries)", ".tril()", "newest queries stand at the end"),
        ("if 1 < queries < keys else None", "if 1 < queries < 0 else None", "newest queries are causal"),
        ("else visible_BTS & self.among_BTS", "else visible_BTS | self.among_BTS", "bounds hold under a mask too"),
        ("self._made[make] = make(self)\n", "return make(self)\n", "a mask is made once for all layers"),
        ("is not None and len(x) > 1}", "is not None and len(x) > 9}", "bounds of some rows are theirs"),
        ("self.offset + t, self.window", "self.offset, self.window", "where one query of several stands"),
    ),
    *_of(
        "masked_attention",
        ("* q_BTHd.shape[-1] ** -0.5, cap", "* q_BTHd.shape[-1] ** -1, cap", "scale of capped scores"),
        ("unflatten(2, (groups, -1)), k_BSGd)", "unflatten(2, (-1, groups)).transpose(2, 3), k_BSGd)", "head groups"),
        ("is_causal=visible is None and queries == keys", "is_causal=False", "whole rows are causal"),
        ("masked_fill(~visible[:, None], -torch.inf)", "clone()", "capped scores are masked"),
    ),
    *_of(
        "attention",
        ("reference(q, k, v, None, cap) for", "reference(q, k, v, None, None) for", "cap in a packed row"),
        ("    elif in_blocks(span):\n", "    elif False:\n", "a long row's blocks are prepared"),
        ("    elif span.packed is None:\n", "    elif False:\n", "masks are prepared"),
    ),
    *_of(
        "attention_choice",
        ("    if call.sink:\n", "    if False:\n", "flash attention has no sinks"),
        ("    if call.cap is not None:\n", "    if False:\n", "flash attention has no cap"),
        ("    if call.value_dim != call.head_dim:\n", "    if False:\n", "flash attention has one width"),
        ("or call.head_dim % FLASH_MULTIPLE:", "or False:", "widths of flash attention"),
        ("if narrowest < FLEX_LEAST_CHANNELS:", "if False:", "widths of FlexAttention"),
        ("return None if call.whole_rows else", "return None if True else", "fused kernels take whole rows"),
        ("(torch.bfloat16, torch.float16):", "(torch.bfloat16, torch.float16, torch.float32):", "16 bits"),
        ("call.compute_capability < FLASH_CAPABILITY", "call.compute_capability < (7, 0)", "age of the GPU"),
        ("or isinstance(starts, FakeTensor)", "or False", "memory is counted without a GPU"),
    ),
    *_of(
        "varlen_attention",
        ("span.window - 1, 0)", "span.window, 0)", "the window counts the query itself"),
        ("copy_R1 * tokens).flatten()", "copy_R1 * 0).flatten()", "one row's documents serve all rows"),
        ("new_tensor([starts_BT.numel()])", "new_tensor([span.queries])", "the last document ends with the rows"),
        ("starts_BT == torch.arange(span.queries,", "0 * starts_BT == torch.arange(span.queries,", "documents' bounds"),
    ),
    *_of(
        "flex_attention",
        ("(last_N >= oldest_start_BN1)", "(last_N >= newest_start_BN1)", "blocks of a query block's first document"),
        ("(first_N >= newest_start_BN1)\n", "(first_N >= oldest_start_BN1)\n", "whole blocks are in the last document"),
        ("(last_N <= query_N1)", "(last_N <= newest_N1)", "whole blocks are in the past"),
        ("(first_N < newest_start_BN1 + sink))", "(first_N < newest_start_BN1))", "blocks of sinks"),
        ("every = every & (newest_N1 - first_N < window)", "pass", "whole blocks are in every query's window"),
        ("some = some & ((query_N1", "some = some | ((query_N1", "blocks before the window are left out"),
        ("starts_BT[row * many, query]", "starts_BT[0, query]", "each row has documents of its own"),
        ("partial, queries = some & ~every,", "partial, queries = some,", "whole blocks are listed once"),
        ("return soft_cap(score, cap)", "return score", "the cap"),
    ),
    *_of(
        "window_attention",
        (
            "torch.where(sinks_BNs < near_NS[:, :1], sinks_BNs, hidden)",
            "sinks_BNs.expand(-1, -1, -1)",
            "one score a sink",
        ),
        ("span.whole_rows and span.sink", "span.sink", "only whole rows are cut into blocks"),
        ("< span.queries\n", "<= span.queries\n", "rows that are short enough are scored whole"),
    ),
    *_of(
        "latent_attention",
        (".float() * scale", ".float()", "scale of latent scores"),
        ("scores_BHTS + torch", "0 * scores_BHTS + torch", "the latent part of a score"),
        ("elif queries > 1:", "elif queries < 0:", "causality"),
        ("elif queries > 1:", "elif queries == keys:", "newest queries are causal"),
        ("~span.mask, -torch.inf", "~span.mask, 0.0", "documents do not see each other"),
    ),
    *_of(
        "causal_conv",
        ("depthwise_CK[:, -1 - j]", "depthwise_CK[:, j]", "order of the first convolution's taps"),
        ("mixing_HdeK[..., -1 - j]", "mixing_HdeK[..., j]", "order of the second convolution's taps"),
        ("(age_BU >= j)", "(age_BU >= 0)", "the first convolution stays in its document"),
        ("(age_BT >= j)", "(age_BT >= 0)", "the second convolution stays in its document"),
        ('"bthe,hde->bthd"', '"bthe,hed->bthd"', "rows and columns of the mixing matrices"),
        ("outside = 0 if depthwise_bias_C is None else", "outside = 0 if True else", "one padding for both"),
    ),
    *_of(
        "polyglu",
        (
            "return F.relu(u), torch.tanh(u), F.silu(u), F.gelu(u)",
            "return torch.tanh(u), F.relu(u), F.silu(u), F.gelu(u)",
            "order of the activations",
        ),
        ("F.silu(u), F.gelu(u)\n", 'F.silu(u), F.gelu(u, approximate="tanh")\n', "exact GELU"),
        ("mixed = _mix(weights, _values", "mixed = _mix(weights[::-1], _values", "each weight has its activation"),
        ("torch.mul(mixed, v_BTF[:, chunk]", "torch.mul(mixed, u_BTF[:, chunk]", "value gated by the mix"),
        (".clamp_(min=least).exp_()", ".exp_()", "no exponential below the normal numbers"),
    ),
    *_of(
        "cross_entropy",
        ("(normaliser_n1 - expected_n1) * counted_n1", "(normaliser_n1 - expected_n1)", "ignored targets"),
        ("torch.tanh(x / cap) * cap", "torch.tanh(x / cap)", "the bound of a soft cap"),
        ("smoothing * logits_nV.mean(1", "smoothing * logits_nV.sum(1", "smoothed targets sum to 1"),
        (".sub_(smoothing / dlogits_nV.shape[1])", "", "gradient of the smoothed share"),
        ("smoothing - 1.0))", "-1.0))", "gradient of the target's share"),
        ("1.0 - (logits_nV / cap).square()", "1.0 + 0 * logits_nV", "slope of a soft cap"),
    ),
    *_of(
        "dropout",
        ("x_BTD / (1.0 - share)", "x_BTD", "what is kept is scaled up"),
        (">= share).view", "< share).view", "the share that is dropped"),
        ("key_BT.flatten(), stream,", "key_BT.flatten(), 0,", "streams of dropout"),
    ),
    *_of(
        "noise",
        ("-(-uniform(key_B, stream, count).log()).log()", "-(-uniform(key_B, stream, count).log())", "Gumbel noise"),
        ("(position_BT + 1) * _GOLDEN", "position_BT * 0 + _GOLDEN", "a key for every position"),
    ),
]
