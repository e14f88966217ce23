"""HYDRA is its definition, written out: latent attention, gates of depth, recursions of all kinds, experts; as it
weighs in training and as it skips in serving."""

import math

import pytest
import torch
from definitions import (
    IDS,
    LENGTHS,
    STARTS,
    Weights,
    attention,
    compared,
    in_document,
    positions_of,
    rms_norm,
    rope,
    sigmoid,
    silu,
    softmax,
    uniform,
)

LENGTH, KEY = len(IDS), 77
THRESHOLD = 0.2  # of every router; a random model's logits lie on both sides


class Definition:
    """The model's recipe and weights, and what it computes. `open`, `adaptive`, `dense`: what the curriculum holds."""

    def __init__(self, model, open=1.0, adaptive=1.0, dense=False, key=None):
        self.recipe, self.section, self.w = model.recipe, model.section, Weights(model)
        self.training, self.key = model.training, key
        self.open, self.adaptive, self.dense = open, adaptive, dense
        self.skips = not model.training and self.section.routing == "dynamic" and open == 1.0
        self.thresholds = 0

    # Attention: queries, keys and values in a latent ---------------------------------------------------------------

    def convolved(self, name, raw):
        """Both convolutions; before a document there is zero, which the first makes its bias."""
        first, second = self.w[f"{name}.conv.weight"], self.w[f"{name}.mixing.weight"]
        channels, d = raw.shape[1], self.recipe.head_dim
        bias = self.section.conv_bias
        first_bias = self.w[f"{name}.conv.bias"][:channels] if bias else torch.zeros(channels)
        second_bias = self.w[f"{name}.mixing.bias"][:channels] if bias else torch.zeros(channels)
        a = []
        for t in range(LENGTH):
            found = first_bias
            for back in range(first.shape[2]):
                if t - back >= STARTS[t]:
                    found = found + first[:channels, 0, -1 - back] * raw[t - back]
            a.append(found)
        y = []
        for t in range(LENGTH):
            heads = []
            for h in range(channels // d):
                of_head = slice(h * d, (h + 1) * d)
                found = second_bias[of_head]
                for back in range(second.shape[2]):
                    source = a[t - back] if t - back >= STARTS[t] else first_bias
                    found = found + second[of_head, :, -1 - back] @ source[of_head].double()
                heads.append(found)
            y.append(torch.cat(heads))
        return torch.stack(y)

    def attended(self, name, x, first):
        """What attention adds to each token. `first` holds the keys of the first run, empty before it, or is None."""
        w, recipe = self.w, self.recipe
        heads, groups, d = recipe.n_heads, recipe.n_kv_heads, recipe.head_dim
        raw_q = w.linear(f"{name}.query", x)
        again = first is not None and "k" in first
        raw_k = first["raw"] if again else w.linear(f"{name}.key", x)
        conv = self.convolved(name, raw_q if again else torch.cat((raw_q, raw_k), dim=1))
        q_heads, k_heads = raw_q.view(LENGTH, heads, d), raw_k.view(LENGTH, groups, d)
        means = [(q_heads[:, h] + k_heads[:, h // (heads // groups)]) / 2 for h in range(heads)]
        q = torch.stack([conv[:, h * d : (h + 1) * d] + means[h] for h in range(heads)], dim=1)
        q = rope(self.of_norm_sqrt_d(q), positions_of(STARTS), recipe.rope_base, self.section.rope_pairing)
        if again:
            k, v = first["k"], first["v"]
        else:
            k_conv = conv[:, heads * d :]
            share = heads // groups
            k = torch.stack(
                [
                    k_conv[:, g * d : (g + 1) * d] + sum(means[g * share : (g + 1) * share]) / share
                    for g in range(groups)
                ],
                dim=1,
            )
            k = self.of_norm_sqrt_d(k) * torch.exp(w[f"{name}.beta"])[:, None]
            k = rope(k, positions_of(STARTS), recipe.rope_base, self.section.rope_pairing)
            now, late = w.linear(f"{name}.value", x), w.linear(f"{name}.shifted_value", x)
            before = [late[t - 1] if t > STARTS[t] else torch.zeros_like(late[0]) for t in range(LENGTH)]
            v = torch.cat((now, torch.stack(before)), dim=1).view(LENGTH, groups, d)
            if first is not None:
                first.update(raw=raw_k, k=k, v=v)
        return w.linear(f"{name}.out", attention(q, k, v, in_document(STARTS)))

    def of_norm_sqrt_d(self, x):
        return math.sqrt(self.recipe.head_dim) * x / (x * x).sum(-1, keepdim=True).sqrt()

    # A block -------------------------------------------------------------------------------------------------------

    def norm(self, name, x):
        return rms_norm(x, self.w[f"{name}.gain"], self.recipe.norm_eps)

    def swiglu(self, name, x):
        w = self.w
        return w.linear(f"{name}.down", silu(w.linear(f"{name}.gate", x)) * w.linear(f"{name}.up", x))

    def layer(self, at, h, first, going, mlp_weight):
        """Both branches, for tokens that go on; they write keys and values whether or not they do."""
        going = torch.tensor(going)[:, None]
        h = h + going * self.attended(f"{at}.attention", self.norm(f"{at}.attention_norm", h), first)
        return h + going * mlp_weight[:, None] * self.swiglu(f"{at}.ffn", self.norm(f"{at}.ffn_norm", h))

    def passes(self, name, logits):
        """Which tokens a gate lets through in serving."""
        if self.section.mod_infer == "topk":
            chosen = set()
            for document in range(len(LENGTHS)):
                tokens = range(sum(LENGTHS[:document]), sum(LENGTHS[: document + 1]))
                best = sorted(tokens, key=lambda t: -float(logits[t]))
                chosen |= set(best[: math.ceil(self.section.capacity * len(tokens))])
            return [t in chosen for t in range(LENGTH)]
        return [float(logit) >= THRESHOLD for logit in logits]

    def block(self, at, x, layers, gated, recursions):
        everyone, ones = [True] * LENGTH, torch.ones(LENGTH, dtype=torch.float64)
        active, mlp_weight = everyone, ones
        weight = ones
        if gated:
            logits = self.w.linear(f"{at}.mod.router", x)[:, 0]
            weight = 1 - self.open + self.open * sigmoid(logits)
            if self.skips:
                passing = self.passes(f"{at}.mod.router", logits)
                weight = weight * torch.tensor(passing)
                active = passing if self.section.mod_scope == "block" else everyone
        if self.section.mod_scope == "mlp":
            mlp_weight, weight = weight, ones
        firsts = [{} if self.section.mor_kv == "first" else None for _ in range(layers)]

        def once(h, r, going):
            y = h + self.w[f"{at}.mor.embedding.weight"][r] if recursions > 1 else h
            for layer in range(layers):
                y = self.layer(f"{at}.layers.{layer}", y, firsts[layer], going, mlp_weight)
            return torch.where(torch.tensor(going)[:, None], y, h)

        if recursions == 1:
            y = once(x, 0, active)
        else:
            y = getattr(self, self.section.mor)(f"{at}.mor", x, once, recursions, active)
        return x + weight[:, None] * (y - x)

    # Recursions ----------------------------------------------------------------------------------------------------

    def gaussian(self, name, x, once, recursions, active):
        mean = (recursions - 1) * sigmoid(self.w.linear(f"{name}.router", x))
        bell = torch.cat(
            [torch.exp(-((r - mean) ** 2) / (2 * self.section.mor_variance)) for r in range(recursions)], dim=1
        )
        bell = bell / bell.sum(1, keepdim=True)
        full = torch.tensor([0.0] * (recursions - 1) + [1.0]).double()
        share = (1 - self.adaptive) * full + self.adaptive * bell
        going = [[True] * LENGTH] * recursions
        if self.section.mor_exit == "hard" and not self.training:
            last = share.argmax(1).tolist()
            going = [[depth >= r for depth in last] for r in range(recursions)]
            share = torch.eye(recursions, dtype=torch.float64)[last]
        h, y = x, 0
        for r in range(recursions):
            h = once(h, r, [a and b for a, b in zip(active, going[r], strict=True)])
            y = y + share[:, r : r + 1] * h
        return y

    def expert_choice(self, name, x, once, recursions, active):
        h, going = x, active
        for r in range(recursions):
            logits = self.w.linear(f"{name}.router.{r}", h)[:, 0]
            if r > 0 and self.adaptive > 0:
                going = [g and float(logit) >= THRESHOLD for g, logit in zip(going, logits, strict=True)]
            out = once(h, r, going)
            stepped = (1 - self.adaptive) * out + self.adaptive * (h + 0.1 * sigmoid(logits)[:, None] * out)
            h = torch.where(torch.tensor(going)[:, None], stepped, h)
        return h

    def token_choice(self, name, x, once, recursions, active):
        p = softmax(self.w.linear(f"{name}.router", x))
        least = math.ceil((1 - self.adaptive) * (recursions - 1) - 1e-6)
        last = [max(depth, least) for depth in p.argmax(1).tolist()]
        h = x
        for r in range(recursions):
            h = once(h, r, [a and depth >= r for a, depth in zip(active, last, strict=True)])
        chosen = torch.stack([p[t, depth] for t, depth in enumerate(last)])[:, None]
        return (1 - self.adaptive) * h + self.adaptive * (chosen * h + x)

    # Experts and the whole -----------------------------------------------------------------------------------------

    def experts(self, number, x):
        w, section, name = self.w, self.section, f"expert_layers.{number}"
        normed = self.norm(f"{name}.ffn_norm", x)
        logits = w.linear(f"{name}.ffn.router", normed)
        if self.training and self.key is not None and section.router_jitter:
            noise = torch.tensor(uniform(self.key, number, logits.numel()), dtype=torch.float64).view_as(logits)
            logits = logits * (1 + section.router_jitter * (2 * noise - 1))
        p = softmax(logits)
        added = []
        for t in range(LENGTH):
            best = sorted(range(section.experts), key=lambda e: -float(p[t, e]))[: section.experts_per_token]
            weights = {e: p[t, e] for e in best}
            if section.experts_per_token > 1:
                weights = {e: weight / sum(weights.values()) for e, weight in weights.items()}
            if self.dense:
                weights = {e: p[t, e] for e in range(section.experts)}
            y = 0
            for e, weight in weights.items():
                gate, up, down = (w[f"{name}.ffn.experts.{part}"][e] for part in ("gate", "up", "down"))
                y = y + weight * (down @ (silu(gate @ normed[t]) * (up @ normed[t])))
            added.append(w[f"{name}.ffn.alpha"] * y)
        return x + torch.stack(added)

    def logits(self):
        recipe, section = self.recipe, self.section
        middle = section.mor_sharing == "middle_cycle"
        layers = [1, recipe.n_layers - 2, 1] if middle else [1] * recipe.n_layers
        last = len(layers) - 1
        after = [i * (last - 1) // (section.moe_layers + 1) for i in range(1, section.moe_layers + 1)]
        x = self.w["embedding.weight"][IDS] * (math.sqrt(recipe.d_model) if section.scale_embedding else 1)
        for place, count in enumerate(layers):
            inner = 0 < place < last
            gated = section.capacity < 1 and (inner or section.mod_scope == "block")
            x = self.block(f"blocks.{place}", x, count, gated, section.recursions if inner or not middle else 1)
            if place in after:
                x = self.experts(after.index(place), x)
        return self.norm("final_norm", x) @ self.w["embedding.weight"].T


def by_definition(model, *arguments):
    return Definition(model, *arguments).logits()


@pytest.fixture
def made(lively_model):
    def make(mode, *, section=None, **changes):
        if section is not None:
            changes["hydra"] = {"recursions": 2, "experts": 4, "moe_layers": 1, "curriculum": False, **section}
        model = lively_model(mode, **changes).double()
        for name, buffer in model.named_buffers():
            if name.endswith("threshold"):
                buffer.fill_(THRESHOLD)
        return model

    return make


def test_logits_of_serving_are_the_definitions(made, own_mode):
    compared(made(own_mode), by_definition)


def test_logits_of_training_are_the_definitions(made, own_mode):
    compared(made(own_mode).train(), by_definition)


@pytest.mark.filterwarnings("ignore:hydra.mod_infer=topk")
def test_the_best_of_each_document_pass_where_the_recipe_says_so(made):
    compared(made("hydra", section={"mod_infer": "topk"}), by_definition)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("variant", "adaptive"),
    [("hydra", 0.6), ("hydra expert_choice", 0.6), ("hydra expert_choice", 0), ("hydra token_choice", 0.6)],
)
def test_a_curriculum_leads_from_full_depth_to_the_routers_and_opens_the_gates(made, variant, adaptive, training):
    model = made(variant).train(training)
    model.apply_schedule({"mod_floor": 0.4, "mor_adaptive": adaptive, "moe_dense": 1.0})
    compared(model, by_definition, 0.4, adaptive, True)


def test_jitter_multiplies_the_experts_logits_by_the_noise_of_the_row_in_training_alone(made):
    model = made("hydra", n_layers=4, section={"router_jitter": 0.5, "moe_layers": 2})
    compared(model.train(), by_definition, 1.0, 1.0, False, KEY, row_key=KEY)
    compared(model.eval(), by_definition, row_key=KEY)


@pytest.mark.parametrize("section", [{"scale_embedding": False}, {"mor_variance": 2.0}, {"recursions": 1}], ids=str)
def test_options_are_the_definitions(made, section):
    compared(made("hydra", section=section), by_definition)


def test_a_gates_threshold_becomes_the_logit_that_its_share_of_the_tokens_reaches(lively_model):
    model = lively_model("hydra", n_layers=2, hydra={"curriculum": False, "recursions": 1, "capacity": 0.6}).double()
    ids, starts = torch.tensor([IDS]), torch.tensor([STARTS])
    targets = torch.tensor([[1] * 8 + [-100] * 4])  # the last document is padding and does not count
    model.train().begin_step(0)
    with torch.no_grad():
        model.loss(ids, targets, starts)
        model.after_step(1.0)
    router = model.blocks[0].mod.router
    w = Weights(model)
    x = w["embedding.weight"][IDS] * math.sqrt(model.recipe.d_model)
    logits = w.linear("blocks.0.mod.router", x)[:8, 0].tolist()
    wanted = sorted(logits, reverse=True)[math.ceil(0.6 * 8) - 1]
    assert float(router.threshold) == pytest.approx(wanted, abs=1e-5)
