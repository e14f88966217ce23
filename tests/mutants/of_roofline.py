"""Mutants of the counted step: what operations move, what is launched and kept, how long it takes."""

from mutant import Mutant


def _of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tuple(tests.split())) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "models/op_cost.py",
        "tests/models/test_op_cost.py",
        ("if func.is_view or name in _NOTHING:", "if name in _NOTHING:", "views are no launch"),
        ("if stride or not size", "if True", "an expanded tensor is as large as what it expands"),
        ("{id(tensor): tensor for tensor in tensors}.values()", "list(tensors)", "what is given twice is read once"),
        ('_OVERWRITES = {"copy_", "fill_", "zero_"}', '_OVERWRITES = {"fill_"}', "what is overwritten is not read"),
        ('or _tagged(func, "out")', "", "what is written with out= is not read"),
        ("_bytes((*outputs, *written))", "_bytes(outputs[:0])", "what is written counts"),
        ("told + min(found, addressed_bytes(table))", "told + addressed_bytes(table)", "a look-up reads few rows"),
        (
            "return told + touched, touched",
            "return told + touched, addressed_bytes(table)",
            "a scatter touches few places",
        ),
        (
            '"fp32 product" if dtype in (torch.float32, torch.float64) else "product"',
            '"product"',
            "fp32 products are slow",
        ),
        ("scores //= 2", "scores //= 1", "causality hides half of the scores"),
        (
            "(3 * width + 2 * value_width)",
            "(2 * width + 2 * value_width)",
            "attention goes backward with five products",
        ),
        ('if _tagged(func, "reduction") or', "if", "a reduction is one"),
    ),
    *_of(
        "models/roofline.py",
        "tests/models/test_roofline.py",
        ("return max(assumed.launch_s, bytes_s, flops_s)", "return max(bytes_s, flops_s)", "a launch takes its time"),
        (
            "max(assumed.launch_s, bytes_s, flops_s)",
            "max(assumed.launch_s, bytes_s + flops_s)",
            "the slower of the two",
        ),
        ("(assumed.bandwidth_share * gpu", "(1.0 * gpu", "nobody reaches the data sheet's bandwidth"),
        ("assumed.shares[cost.rate] * gpu", 'assumed.shares["product"] * gpu', "every rate is its own"),
        ("total + times * value", "total + value", "a cost counts as often as it was met"),
        ("flops.forward + flops.backward", "flops.forward", "useful work goes forward and backward"),
        ("-item[1].time_s", "item[1].time_s", "what takes longest is first"),
    ),
    *_of(
        "kernels/chunks.py",
        "tests/kernels/test_chunks.py tests/models/test_step_count.py",
        ("_counts[-1].repeat(len(chunks) - 2)", "_counts[-1].repeat(len(chunks) - 1)", "as many as are between"),
        ("        _counts[-1].repeat(1)\n", "", "the last chunk stands for itself"),
        ("_counts[-1].device_type if _counts else device_type", "device_type", "the chunks of the device asked about"),
        ("min(start + step, length)", "start + step", "the last chunk may be short"),
    ),
    *_of(
        "models/step_count.py",
        "tests/models/test_step_count.py",
        ("self.launches[cost] += self._repeats", "self.launches[cost] += 1", "a chunk stands for its like"),
        ("return first + steps * (second - first)", "return second + steps * (second - first)", "the line's beginning"),
        ("math.lcm(repeating[1], prepare_period)", "repeating[1]", "recomputation has a period, too"),
        ("            storages.begin_part()\n", "", "forward and backward peak apart"),
        ("_when_backward_reaches_the_first_unit(model, storages.begin_part)", "pass", "the first block is apart"),
        ("self.host_reads += self._repeats", "pass", "the host waits"),
        ("counted(watch.kernels.note, kernels)", "counted(watch.kernels.note)", "kernels that are left out"),
        ("on_a_gpu.enter_context(attention_of_gpus())", "pass", "attention is a GPU's"),
        ("self.live_bytes -= self._sizes.pop(place)", "pass", "what goes is gone"),
    ),
    *_of(
        "models/kernel_cost.py",
        "tests/models/test_kernel_cost.py",
        ("cost = calls.pop()", "cost = calls[0]", "a backward pass is of the newest call"),
        ("kernel.backward_cost(*arguments)", "kernel.forward_cost(*arguments)", "backward has a record of its own"),
        ('else "fp32 product"', 'else "product"', "elementwise kernels have no tensor cores"),
    ),
    *_of(
        "models/gpu_attention.py",
        "tests/models/test_step_count.py",
        (
            "bias.expand(*query.shape[:-1], key.shape[-2])",
            "bias.repeat(1, query.shape[1], 1, 1)",
            "a bias serves all heads",
        ),
        ("(x.repeat_interleave(repeats, dim=-3) for x in (key, value))", "(key, value)", "heads are repeated"),
        ("queries * window - window * (window - 1) // 2", "queries * queries // 2", "scores of a window"),
        ("with counted_on_a_gpu(_fused):", "if True:", "fused attention is counted as such"),
        (
            "return torch.empty_like(query), torch.empty_like(key), ",
            "return torch.empty_like(query), torch.empty_like(query), ",
            "gradients of grouped heads",
        ),
    ),
    *_of(
        "kernels/kind.py",
        "tests/models/test_kernel_cost.py",
        ("and not _interpreted and _note is None", "and not _interpreted", "a count takes the kernels"),
    ),
    *_of(
        "models/memory.py",
        "tests/models/test_memory.py::test_the_largest_micro_batch_fits_and_one_row_more_does_not "
        "tests/models/test_memory.py::test_a_device_too_small_for_one_row_still_gets_one",
        ("            misfit, misfitting_bytes = guess, used", "            misfit = guess - 1", "what does not fit"),
        ("if most.total_bytes <= room:", "if False:", "all rows may fit"),
        ("return max(1, fits)", "return fits", "one row is always tried"),
    ),
    *_of(
        "flows/plan/counted_step.py",
        "tests/flows/plan/test_counted_step.py",
        ("-(-train.batch_rows // (runtime.world_size * rows))", "1", "a step has its micro-batches"),
        ("(runtime.world_size * rows)", "rows", "ranks share a step"),
        ("self.micro_batches * self.micro_batch.time_s", "self.micro_batch.time_s", "of a step, not of a micro-batch"),
    ),
]
