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
        "attention",
        ("key_S <= query_T1\n    if", "key_S < query_T1 + 2\n    if", "causality"),
        (">= doc_start_BT[:, :, None])", ">= 0)", "documents do not see each other"),
        ("if visible is None and 1 < queries < keys:", "if visible is not None:", "newest queries are causal"),
        (".tril(keys - queries)", ".tril()", "newest queries stand at the end"),
        ("* q_BTHd.shape[-1] ** -0.5, cap", "* q_BTHd.shape[-1] ** -1, cap", "scale of capped scores"),
        ("unflatten(2, (groups, -1)), k_BSGd)", "unflatten(2, (-1, groups)).transpose(2, 3), k_BSGd)", "head groups"),
    ),
    *_of(
        "window_attention",
        ("(query - key < window)", "(query - key <= window)", "the window counts the query itself"),
        ("(key - doc_start < sink)", "(key < sink)", "sinks are the document's own"),
        ("(key - doc_start < sink)", "(key - doc_start <= sink)", "number of sinks"),
        ("(key >= doc_start) & (key <= query)", "(key <= query)", "windows end at the document"),
    ),
    *_of(
        "latent_attention",
        (".float() * scale", ".float()", "scale of latent scores"),
        ("scores_BHTS + torch", "0 * scores_BHTS + torch", "the latent part of a score"),
        ("if visible is None and queries > 1:", "if visible is None and queries < 0:", "causality"),
        ("if visible is None and queries > 1:", "if visible is None and queries == keys:", "newest queries are causal"),
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
