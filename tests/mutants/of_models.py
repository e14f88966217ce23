"""Mutants of `models`: each is held by the written-out definition of a family."""

from mutant import Mutant


def _of(file: str, families: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    """Mutants of `models/<file>` that the definition tests of these families must notice."""
    tests = tuple(f"tests/models/families/{family}/test_definition.py" for family in families.split())
    return [Mutant(f"models/{file}", old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "blocks/causal_mean.py",
        "polychromatic",
        ("sums_BTC / (context.position_BT + 1)", "sums_BTC / (column_T[None] + 1)", "mean over the document so far"),
        ("start_BT.clamp(min=0))", "start_BT.clamp(max=0))", "pooling begins with the document"),
    ),
    *_of(
        "skeleton.py",
        "vanilla",
        ("position_BT = position_BT - doc_start_BT", "position_BT = position_BT", "positions begin with the document"),
        ("self.final_norm(self.body(", "(self.body(", "final norm"),
        ("self.head_weight), self.logit_cap)\n\n    def forward", "self.head_weight), None)\n\n    def forward", "cap"),
        (
            "target_N, self.logit_cap, smoothing)",
            "target_N, None, smoothing)",
            "logit cap in the loss",
        ),
        ("(targets_BT != IGNORE).sum(), context.aux,", "(targets_BT != 0).sum(), context.aux,", "targets are counted"),
    ),
    *_of(
        "blocks/attention.py",
        "vanilla polychromatic",
        (
            "q_BTHd, k_BTGd = self.rotate(q_BTHd, rope), self.rotate(k_BTGd, rope)",
            "q_BTHd, k_BTGd = self.rotate(q_BTHd, rope), k_BTGd",
            "keys are rotated",
        ),
        (
            "q_BTHd = self.query_norm(self.heads(self.query(x_BTD)))",
            "q_BTHd = self.heads(self.query(x_BTD))",
            "norm of queries",
        ),
        (
            "k_BTGd = self.key_norm(self.heads(self.key(x_BTD)))",
            "k_BTGd = self.query_norm(self.heads(self.key(x_BTD)))",
            "gain of the keys' norm",
        ),
        (
            "        q_BTHd, k_BTGd, v_BTGd = self.project(x_BTD)\n        if rope is not None:\n"
            "            q_BTHd, k_BTGd = self.rotate(q_BTHd, rope), self.rotate(k_BTGd, rope)\n"
            "        return q_BTHd, k_BTGd, v_BTGd",
            "        query_norm, key_norm = self.query_norm, self.key_norm\n"
            "        self.query_norm = self.key_norm = nn.Identity()\n"
            "        q_BTHd, k_BTGd, v_BTGd = self.project(x_BTD)\n"
            "        self.query_norm, self.key_norm = query_norm, key_norm\n        if rope is not None:\n"
            "            q_BTHd, k_BTGd = self.rotate(q_BTHd, rope), self.rotate(k_BTGd, rope)\n"
            "        return query_norm(q_BTHd), key_norm(k_BTGd), v_BTGd",
            "norms come before the rotation",
        ),
        (
            "rotate: Rotation = rotate_half_split",
            "rotate: Rotation = __import__('athanor.kernels.rope', fromlist=['x']).rotate_interleaved",
            "pairing of PolychromaticLM and the plain decoders",
        ),
    ),
    *_of(
        "blocks/attention.py",
        "vanilla",
        ("span, self.cap).flatten(2))", "span, None).flatten(2))", "cap of scores"),
        ("span, self.cap).flatten(2))", "None, self.cap).flatten(2))", "windows and documents"),
    ),
    *_of(
        "blocks/norm.py",
        "vanilla swa_mla",
        ("self.bias.float(), 1e-5)", "None, 1e-5)", "bias of LayerNorm"),
    ),
    *_of(
        "blocks/swiglu.py",
        "vanilla swa_mla",
        ("swiglu(self.gate(x_BTD), self.up(x_BTD))", "swiglu(self.up(x_BTD), self.gate(x_BTD))", "gate and value"),
    ),
    *_of(
        "families/vanilla/gelu.py",
        "vanilla",
        (
            'F.gelu(self.gate(x_BTD), approximate="tanh") * self.up(x_BTD)',
            'F.gelu(self.up(x_BTD), approximate="tanh") * self.gate(x_BTD)',
            "gate and value of GeGLU",
        ),
        ('F.gelu(self.up(x_BTD), approximate="tanh")', "F.gelu(self.up(x_BTD))", "GELU in its tanh form"),
    ),
    *_of(
        "families/vanilla/model.py",
        "vanilla",
        ("x_BTD * self.recipe.d_model**0.5 if", "x_BTD * self.recipe.d_model if", "scale of the embedding"),
        ("layer % 2 == 0", "layer % 2 == 1", "which blocks have a window"),
        ("self.attention_branch_norm(mixed_BTD))", "mixed_BTD)", "norm of what a branch adds"),
        ("recipe.head_dim, recipe.rope_base)", "recipe.head_dim, 10_000.0)", "base of the rotations"),
    ),
    *_of(
        "families/polychromatic/polyglu.py",
        "polychromatic",
        ("polyglu(self.gate(x_BTD), self.up(x_BTD)", "polyglu(self.up(x_BTD), self.gate(x_BTD)", "gate and value"),
        ("return self.beta * F.linear", "return F.linear", "beta"),
        ("static_BFK / tau, dynamic_BTK / tau", "static_BFK, dynamic_BTK / tau", "alpha over tau"),
        ("static_BFK / tau, dynamic_BTK / tau", "static_BFK / tau, dynamic_BTK", "context over tau"),
        ("static_BFK = static_BFK + noise_BFK", "static_BFK = static_BFK + noise_BFK * tau", "noise is divided by tau"),
        ("static_BFK = static_BFK + noise_BFK", "static_BFK = static_BFK", "noise"),
        ("F.relu(pooled + self.reduce.bias)", "(pooled + self.reduce.bias)", "nonlinearity of the router"),
        ("at_least_fp32(reduced_BTR).mean(1, keepdim=True)", "at_least_fp32(reduced_BTR)[:, -1:]", "mean over all"),
    ),
    *_of(
        "families/polychromatic/model.py",
        "polychromatic",
        ("if not self.training or context.row_key_B is None", "if context.row_key_B is None", "no noise when serving"),
        ("gumbel(context.row_key_B, layer, count)", "gumbel(context.row_key_B, 0, count)", "noise of each layer"),
        ("start * (1.0 - progress) + end * progress", "start * (1.0 - progress)", "end of the temperature"),
        ("self.ffn(normed_BTD,", "self.ffn(x_BTD,", "norm before PolyGLU"),
    ),
    *_of(
        "families/swa_mla/latent.py",
        "swa_mla",
        ("span, sum(self.dims) ** -0.5)", "span, self.dims[0] ** -0.5)", "scale of absorbed scores"),
        ("k_BSHd, v_BSHv, span)\n", "k_BSHd * 1.1, v_BSHv, span)\n", "scale of materialised scores"),
        ("return self.kv_norm(c_BTR),", "return c_BTR,", "norm of the latent"),
        ("self.query_norm(self.query_reduce(x_BTD))", "self.query_reduce(x_BTD)", "norm of the queries' latent"),
        ("return q_nope, rotate_interleaved(q_rope, rope)", "return q_nope, q_rope", "latent queries are rotated"),
        ("rotate_interleaved(k_rope_BTr[:, :, None], rope)[:, :, 0]", "k_rope_BTr", "the key slice is rotated"),
        (
            "unflatten(-1, (self.heads, -1)).tensor_split((self.dims[0],), dim=-1)",
            "unflatten(-1, (-1, self.heads)).transpose(-1, -2).tensor_split((self.dims[0],), dim=-1)",
            "expanded rows go head by head",
        ),
    ),
    *_of(
        "families/swa_mla/model.py",
        "swa_mla",
        ("< section.n_swa:", "< section.n_mla:", "order of the cycle"),
        (
            "attention = kind(recipe, rotate_interleaved,",
            "attention = kind(recipe,",
            "pairing of the windows' blocks",
        ),
        ("recipe.rope_base, section.rope_factor)", "recipe.rope_base)", "scaling of positions"),
        ("context, section.visible_window, section.sink)", "context, section.visible_window, 0)", "sinks"),
    ),
    *_of(
        "families/swa_mla/recipe.py",
        "swa_mla",
        ("self.window + self.window_inclusive_compat", "self.window", "the published code's window"),
    ),
    *_of(
        "families/swa_mla/dynamic_tanh.py",
        "swa_mla",
        ("self.alpha, self.gain, self.bias)", "self.alpha, self.bias, self.gain)", "gain and bias"),
    ),
    *_of(
        "families/huginn/model.py",
        "huginn",
        (
            "_, x_BTD = self.attention_sum_norm(x_BTD, mixed_BTD)",
            "x_BTD = x_BTD + self.attention_sum_norm(mixed_BTD)",
            "a sandwich norms the sum",
        ),
        (
            'if section.block != "post-norm" else NoNorm\n        after',
            'if section.block == "pre-norm" else NoNorm\n        after',
            "norms of a sandwich's inputs",
        ),
        ("torch.cat((s_BTD, e_BTD), dim=-1)", "torch.cat((e_BTD, s_BTD), dim=-1)", "the state comes first"),
        ("else s_BTD + e_BTD", "else s_BTD - e_BTD", "injection by a sum"),
        (
            "self._eval_steps, self.section.backprop_depth)",
            "self._eval_steps + 1, self.section.backprop_depth)",
            "iterations when serving",
        ),
        (
            "self.section.eval_recurrence or self.section.mean_recurrence",
            "self.section.mean_recurrence",
            "eval_recurrence",
        ),
        (
            "torch.is_grad_enabled() and step >= recurrence.without_grad",
            "torch.is_grad_enabled()",
            "the first iterations carry no gradient",
        ),
        ("for step in range(recurrence.steps)", "for step in range(recurrence.steps - 1)", "number of iterations"),
        ("math.sqrt(self.recipe.d_model) if", "1.0 if", "scale of the embedding"),
        ("return self.init_std * self.embedding_scale", "return self.init_std", "spread of the initial state"),
        (
            "keys_at(context.row_key_B[:, None], column_1T)",
            "keys_at(context.row_key_B[:, None], column_1T * 0)",
            "noise of each position",
        ),
        (
            "if context.row_key_B is None or not self.training",
            "if context.row_key_B is None",
            "one noise for all rows in serving",
        ),
        ("x_BTD = self.final_norm(s_BTD)", "x_BTD = s_BTD", "norm before the coda"),
        ("super().head_weight if self.head is None", "super().head_weight if True", "an untied head"),
        (
            "norm = partial(RMSNorm, recipe.d_model, recipe.norm_eps, section.norm_gain)",
            "norm = partial(RMSNorm, recipe.d_model, recipe.norm_eps * 1e4, section.norm_gain)",
            "eps of the norms",
        ),
        ("recipe.head_dim, recipe.rope_base)", "recipe.head_dim, 2 * recipe.rope_base)", "base of the rotations"),
    ),
    *_of(
        "families/huginn/attention.py",
        "huginn",
        ("k + self.key_bias.to(k.dtype)", "k + 0 * self.key_bias.to(k.dtype)", "bias of keys"),
        (
            "super().__init__(recipe, rotate_interleaved)",
            "super().__init__(recipe, __import__('athanor.kernels.rope', fromlist=['x']).rotate_half_split)",
            "pairing",
        ),
        (
            "return self.heads(q), self.heads(k), self.heads(v)",
            "return self.heads(q), self.heads(v), self.heads(k)",
            "order of queries, keys and values",
        ),
    ),
    *_of(
        "families/huginn/packed_swiglu.py",
        "huginn",
        (
            "swiglu(*self.gate_up(x_BTD).chunk(2, dim=-1))",
            "swiglu(*reversed(self.gate_up(x_BTD).chunk(2, dim=-1)))",
            "the gate comes first",
        ),
    ),
    *_of(
        "families/hydra/ccgqa.py",
        "hydra",
        ("self.groups, 1, -1))) / 2", "self.groups, 1, -1)))", "means of heads are halves"),
        (
            "k_BTC.unflatten(2, (self.groups, -1)) + mean_BTGhd.mean(3)",
            "k_BTC.unflatten(2, (self.groups, -1))",
            "head means of keys",
        ),
        (
            "mean_BTGhd = self._head_means(raw_q_BTC, raw_k_BTC)",
            "mean_BTGhd = self._head_means(q_BTC, k_BTC)",
            "head means come from before the convolutions",
        ),
        ("(_to_sqrt_d(k_BTGd) * temperature_G1)", "_to_sqrt_d(k_BTGd)", "temperature of keys"),
        ("self.beta.float().exp()[:, None]", "self.beta.float()[:, None]", "temperature is exp(beta)"),
        ("x.square().mean(-1, keepdim=True)", "x.square().sum(-1, keepdim=True)", "norm sqrt(d)"),
        ("torch.cat((earlier, next_BTC[:, :-1]), dim=1)", "next_BTC", "values of the token before"),
        (
            "torch.where((positions.age_BT > 0)[:, :, None], before_BTC, 0)",
            "before_BTC",
            "a value never comes from another document",
        ),
        ("torch.cat((now_BTC, before_BTC), dim=-1)", "torch.cat((before_BTC, now_BTC), dim=-1)", "order of values"),
        (
            "q_BTHd, k_BSGd = (self.rotate(x, positions.rope) for x in self.normed(*mixed))",
            "q_BTHd, k_BSGd = self.normed(*(self.rotate(x, positions.rope) for x in mixed)); k_BSGd = "
            "self.rotate(k_BSGd, positions.rope)",
            "keys are rotated once",
        ),
        (
            "self._head_means(raw_q_BTC, first.raw_k_BTC)",
            "self._head_means(raw_q_BTC, self.key(x_BTD))",
            "head means of later runs hold the first keys",
        ),
        ("Span(position_BN - subset", "Span(0 * position_BN * subset", "a subset's queries stay in their document"),
        ("self.rotate = ROTATIONS[section.rope_pairing]", "self.rotate = rotate_interleaved", "pairing"),
    ),
    *_of(
        "families/hydra/mod.py",
        "hydra",
        (
            "routing.mod_open * (logit_BT.sigmoid() - 1.0)",
            "routing.mod_open * (logit_BT.sigmoid() * 0)",
            "the gate weighs what the block adds",
        ),
        ("1.0 + routing.mod_open * (logit_BT", "1.0 + (logit_BT", "the gate opens by and by"),
        (
            "torch.where(chosen_BT, weight_BT, (1.0 - routing.skipping) * weight_BT)",
            "weight_BT",
            "tokens turned away get nothing",
        ),
        (
            "best_of_documents(logit_BT, routing.doc_start_BT, self.capacity)",
            "best_of_documents(logit_BT, None, self.capacity)",
            "the best of each document",
        ),
        ("membership(logit_BT, met_BT, self.capacity,", "membership(logit_BT, met_BT, 0.5,", "share that passes"),
    ),
    *_of(
        "families/hydra/routing.py",
        "hydra",
        ("return logit_BT >= self.threshold", "return logit_BT >= 0", "threshold"),
        (
            "score_BT.argsort(dim=1, descending=True, stable=True)",
            "score_BT.argsort(dim=1, stable=True)",
            "the best are the highest",
        ),
        ("rank_BT < torch.ceil(", "rank_BT < torch.floor(", "the share is rounded up"),
        ("capacity_R * counted_R).long()", "capacity_R * counted_R + 2).long()", "the logit that the share reaches"),
    ),
    *_of(
        "families/hydra/block.py",
        "hydra",
        (
            "gated = section.capacity < 1 and (inner or not self.gates_mlp)",
            "gated = section.capacity < 1",
            "which blocks are gated",
        ),
        (
            "self.attention(self.attention_norm(h_BTD), positions, past, attending, first)",
            "self.attention(h_BTD, positions, past, attending, first)",
            "norm before attention",
        ),
        (
            "y_BTD = x_BTD + of_block.weight_BT[:, :, None].to(x_BTD.dtype) * (y_BTD - x_BTD)",
            "y_BTD = x_BTD + of_block.weight_BT[:, :, None].to(x_BTD.dtype) * y_BTD",
            "the gate weighs what is added",
        ),
        (
            "firsts = [FirstKeys() if self.first_keys_only else None for _ in self.layers]",
            "firsts = [None for _ in self.layers]",
            "keys of the first run",
        ),
        (
            "fed, weight_BT = subset_of(both(going_BT, mlp_gate.computed_BT)), mlp_gate.weight_BT",
            "fed, weight_BT = subset_of(both(going_BT, mlp_gate.computed_BT)), None",
            "the gate of the MLP weighs",
        ),
        ("return x_BTD + y_BTD, losses, choices", "return y_BTD, losses, choices", "experts add to the stream"),
    ),
    *_of(
        "families/hydra/mor.py",
        "hydra",
        (
            "block(h_BTD + self.embedding.weight[r], r, active_BT)",
            "block(h_BTD, r, active_BT)",
            "embedding of each recursion",
        ),
        ("torch.where(active_BT[:, :, None], out_BTD, h_BTD)", "out_BTD", "tokens that stopped keep their stream"),
        (
            "(self.recursions - 1) * self.router(x_BTD).sigmoid()",
            "self.recursions * self.router(x_BTD).sigmoid()",
            "mean of the bell",
        ),
        (".square() / (2 * self.variance)", ".square() / self.variance", "variance of the bell"),
        ("full_R + adaptive * (wanted_BTR - full_R)", "wanted_BTR", "full depth before the routers"),
        ("EXPERT_CHOICE_SCALE = 0.1", "EXPERT_CHOICE_SCALE = 1.0", "scale of expert choice"),
        (
            "both(going_BT, router.reaches(met_BT) | (adaptive == 0))",
            "router.reaches(met_BT) | (adaptive == 0)",
            "who stopped stays stopped",
        ),
        (
            "(h_BTD + gain_BT1 * out_BTD - out_BTD)",
            "(out_BTD * gain_BT1 - out_BTD)",
            "expert choice adds to it",
        ),
        ("(p_BT1 * h_BTD + x_BTD - h_BTD)", "(p_BT1 * h_BTD - h_BTD)", "token choice adds to the stream"),
        ("last_BT >= r))\n        p_BT1", "last_BT > r))\n        p_BT1", "depth of token choice"),
        ("last_BT = share_BTR.argmax(-1)", "last_BT = share_BTR.argmin(-1)", "the most probable depth"),
    ),
    *_of(
        "families/hydra/moe.py",
        "hydra",
        ("weight_BTk = weight_BTk / weight_BTk.sum(-1, keepdim=True)", "pass", "weights of several experts sum to 1"),
        (
            "weight_BTk, chosen_BTk = p_BTE.topk(self.per_token, dim=-1)",
            "weight_BTk, chosen_BTk = p_BTE.topk(self.per_token, dim=-1, largest=False)",
            "the likeliest experts",
        ),
        (
            "weight_BTk[..., None].to(y_ND.dtype)).sum(2)",
            "weight_BTk[..., None].to(y_ND.dtype) ** 0).sum(2)",
            "probability weighs the expert",
        ),
        ("return self.alpha * y_BTD, losses", "return y_BTD, losses", "alpha"),
        ("1.0 + self.jitter * (2.0 * noise_BN - 1.0)", "1.0 + self.jitter * (noise_BN - 1.0)", "jitter is even"),
        ("if self.training and self.jitter and", "if self.jitter and", "no jitter when serving"),
        ("routing.moe_dense * (p_BTE - sparse_BTE)", "0 * (p_BTE - sparse_BTE)", "dense warm-up"),
        ("i * (blocks - 2) // (layers + 1)", "i * (blocks - 1) // (layers + 1)", "where expert layers stand"),
    ),
    *_of(
        "families/hydra/model.py",
        "hydra",
        ("x_BTD * self.recipe.d_model**0.5 if", "x_BTD if", "scale of the embedding"),
        (
            "self.expert_layers[number](x_BTD, routing, number)",
            "self.expert_layers[number](x_BTD, routing, 0)",
            "noise of each expert layer",
        ),
        ("float(mod_open == 1) * (1.0 if serving", "1.0 * (1.0 if serving", "nobody is skipped before the gates open"),
    ),
]
