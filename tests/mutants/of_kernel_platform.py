"""Mutants of what all kernels share: the choice, the switch, rows, the compiler's word."""

from mutant import Mutant


def _of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, (tests,)) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "kernels/kind.py",
        "tests/kernels/test_kind.py",
        ("if kernel.name in _off:", "if False:", "a kernel can be switched off"),
        ('if device_type == "cpu" and not _interpreted and _note is None:', "if False:", "on a CPU the reference runs"),
        ("frozenset(KERNELS) - _named(names)", "_named(names)", "the named kernels are on"),
        ("from_environment is None else (ENVIRONMENT, from", "True else (ENVIRONMENT, from", "the environment wins"),
        ('raise UserError(f"{where}={names}: {error}; or', 'raise UserError(f"{error}; or', "the setting is named"),
        ("KERNELS[name.strip()]", "KERNELS[name]", "blanks after commas"),
        ("        _interpreted = before\n", "        pass\n", "interpreting ends"),
    ),
    *_of(
        "kernels/kind.py",
        "tests/kernels/test_swiglu.py",
        ("    return kernel.refuses(*arguments)\n", "    return None\n", "a kernel refuses arguments"),
        ("return None if dtype in STORED else", "return None if True else", "fp64 is torch's"),
    ),
    *_of(
        "kernels/row_form.py",
        "tests/kernels/test_row_form.py",
        ("        elif step != stride * count:\n            return None\n", "", "rows lie at one distance"),
        ("    if width > 1 and x.stride(-1) != 1:\n        return None\n", "", "elements lie side by side"),
        ("        if size == 1:\n            continue\n", "", "an axis of one has no stride"),
    ),
    *_of(
        "kernels/launch.py",
        "tests/kernels/test_swiglu.py",
        ("    if programs == 0:\n        return\n", "    programs = max(programs, 1)\n", "nothing starts for nothing"),
    ),
    *_of(
        "kernels/ahead.py",
        "tests/kernels/test_ahead.py",
        ('os.environ.get("TRITON_INTERPRET") == "1"', "False", "an interpreter compiles nothing"),
        ('if kind.startswith("*") or kind.endswith(":16")', 'if kind.startswith("*")', "multiples of 16 are known"),
    ),
    *_of(
        "models/device.py",
        "tests/models/test_device.py",
        ("    switch(asked(runtime.kernels))\n", "", "a process takes its runtime's kernels"),
        ("        torch.set_num_threads(runtime.threads)\n", "        pass\n", "a process takes its runtime's threads"),
    ),
    *_of(
        "flows/plan/plan.py",
        "tests/flows/plan/test_preflight.py::test_a_kernel_that_is_not_there_fails_the_plan",
        (", *kernel_findings(preset)]", "]", "wrong kernels are found before anything starts"),
    ),
    *_of(
        "flows/cli/kernel_commands.py",
        "tests/flows/cli/test_kernel_commands.py",
        ("    set_up(Runtime())\n", "", "the list of kernels knows the switch"),
    ),
]
