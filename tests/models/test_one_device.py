"""What a model makes while it runs is made where its inputs are: on a GPU nothing waits for, or meets, the CPU."""

import torch
from torch.overrides import TorchFunctionMode

MAKERS = {
    getattr(torch, name)
    for name in (
        *("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor"),
        *("tril_indices", "triu_indices", "zeros", "as_tensor"),
    )
}


class Elsewhere(TorchFunctionMode):
    """Notes every tensor with dimensions that is made without a device being named; numbers go anywhere."""

    def __init__(self):
        super().__init__()
        self.made: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in MAKERS and (kwargs or {}).get("device") is None and found.dim():
            self.made.append(f"{func.__name__}{args}")
        return found


def rows():
    ids = torch.randint(1, 61, (3, 24), generator=torch.Generator().manual_seed(0))
    doc_start = torch.where(torch.arange(24) >= 9, 9, 0).expand(3, 24).contiguous()
    return ids, ids.roll(-1, 1), doc_start, torch.arange(3)


def test_training_and_using_a_model_makes_nothing_elsewhere(mode, lively_model):
    model = lively_model(mode).train()
    model.begin_training(["one", "two"])
    ids, targets, doc_start, row_key = rows()
    source = torch.tensor([0, 1, 0])
    with Elsewhere() as elsewhere:
        loss = model.loss(ids, targets, doc_start, row_key, source)
        loss.total.backward()
        model.after_step(loss.total.item())
        model.eval()
        with torch.no_grad():
            model(ids, doc_start)
            if model.cacheable:
                cache = model.new_cache(3)
                model(ids[:, :20], cache=cache)
                model(ids[:, 20:21], cache=cache)
    assert elsewhere.made == []


def test_a_tensor_made_elsewhere_is_noticed():
    with Elsewhere() as elsewhere:
        torch.zeros(3, device="cpu"), torch.tensor(1.0), torch.arange(3)
    assert elsewhere.made == ["arange(3,)"]
