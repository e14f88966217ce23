"""Mutants of how a run stops, and of what becomes of trouble on one rank; of what is cut of prompts."""

from mutant import Mutant

_PROCESS = "tests/tasks/trainer/process"


def _of(file: str, tests: tuple[str, ...], *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tests) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "tasks/trainer/process/stop_check.py",
        (f"{_PROCESS}/test_stop_check.py",),
        ("self._world.size == 1 or self._places >= self._next", "self._places >= self._next + 1", "alone, at once"),
        ("slowest_s := max(place_s for _, place_s in said)", "slowest_s := said[0][1]", "the slowest rank decides"),
        ("self._ask(self._stop.signal)", "self._ask(self._stop.reason)", "an orphan finishes its step"),
        ("next((reason for reason, _ in said if reason is not None), None)", "said[0][0]", "any rank may be asked"),
        ("self._next = max(1, math.floor(", "self._next = max(99, math.floor(", "about once a second"),
    ),
    *_of(
        "tasks/trainer/process/grace.py",
        (f"{_PROCESS}/test_grace.py",),
        ("MARGIN * (slice_s + save_s)", "MARGIN * slice_s", "checkpoints are waited for"),
        ("return max(LEAST_GRACE_S, float(", "return max(0.0, float(", "the least grace"),
    ),
    *_of(
        "tasks/trainer/process/outcome.py",
        (f"{_PROCESS}/test_outcome.py",),
        ("found.attempt == attempt and", "", "another attempt's end is none of ours"),
        ("and found.exit is not ExitCode.PREEMPTED", "", "a rank that saves is given time"),
    ),
    *_of(
        "tasks/trainer/process/world.py",
        (f"{_PROCESS}/test_world.py",),
        (
            "            raise error\n        return",
            "            pass\n        return",
            "what fails on one is raised on all",
        ),
        ("do() if self.first else None", "do()", "the first alone does it"),
        ("torch.cuda.set_device(device)", "pass", "every rank takes its own GPU"),
    ),
    *_of(
        "models/device.py",
        ("tests/tasks/trainer/process/test_commands.py",),
        (
            'return torch.device(name, local_rank) if name == "cuda" else',
            'return torch.device("cpu") if name else',
            "GPUs",
        ),
    ),
    *_of(
        "tasks/trainer/records/checkpoint.py",
        ("tests/tasks/trainer/records/test_checkpoint.py",),
        ('manifest["key"], manifest["loader', 'manifest.get("key"), manifest["loader', "a manifest says of which run"),
        ("        _read_state(path)\n    except", "        pass\n    except", "the state is read before it is trusted"),
    ),
    *_of(
        "models/decoding/cuts.py",
        ("tests/models/decoding/test_cuts.py",),
        ("self.cut_prompts += cut_tokens > 0", "self.cut_prompts += 0", "cut prompts are counted"),
        ("> self.max_fraction * self.prompts", "> self.prompts", "too many are refused"),
    ),
    *_of(
        "models/decoding/harness.py",
        ("tests/models/decoding/test_harness.py",),
        ("ids[cut_tokens:]), cut_tokens", "ids), cut_tokens", "what was read is what is shown"),
        ("short_answers += room < decoding.new_tokens", "short_answers += 0", "answers short of room are counted"),
    ),
]
