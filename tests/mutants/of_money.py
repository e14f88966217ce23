"""Mutants of prices, budgets, ledgers, clocks and of what a plan says that a run will cost."""

from mutant import Mutant

_PLAN = "tests/flows/plan"
_PLANNED = f"{_PLAN}/test_plan.py"
_TRAINER = "tests/tasks/trainer"


def _of(file: str, tests: str, *changes: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, mechanism, tuple(tests.split())) for old, new, mechanism in changes]


MUTANTS = [
    *_of(
        "tasks/trainer/records/ledger.py",
        f"{_TRAINER}/records/test_ledger.py",
        ("devices * price_usd_per_hour / 3600", "price_usd_per_hour / 3600", "every device has its price"),
        ("wall_s * self._devices,", "wall_s,", "device seconds are those of all devices"),
        ("return self._before.usd + ", "return ", "earlier attempts have cost money"),
        ("return self._before.device_s + ", "return ", "earlier attempts have used devices"),
        ("self._started) * self._devices\n", "self._started)\n", "seconds spoken of are those of all devices"),
        ("if wall_s < ROW_EVERY_S and not force:", "if not force:", "time is charged as it passes"),
        ("self._charged = now", "pass", "no second is charged twice"),
        ("time.monotonic() - running_s", "time.monotonic()", "an attempt pays for its start"),
        (
            "self._started = self._charged = time.monotonic()",
            "self._started = self._charged = time.time()",
            "its clock",
        ),
        ("self.tick(force=True)", "self.tick()", "the rest is charged at the end"),
        ('row.get("wall_s", row["device_s"])', 'row.get("wall_s", 0.0)', "rows of one device do not say its seconds"),
    ),
    *_of(
        "tasks/trainer/process/age.py",
        f"{_TRAINER}/process/test_age.py",
        ("age_s = time.monotonic() -", "age_s = time.time() -", "the start is timed by the monotonic clock"),
        ("if 0.0 <= age_s <=", "if age_s <=", "a start that is to come is not charged"),
        ("<= age_s <= LONGEST_START_S", "<= age_s", "a start that was a day ago is not charged"),
    ),
    *_of(
        "flows/plan/machine.py",
        f"{_PLAN}/test_machine.py",
        ("self.usd_per_hour * self.devices", "self.usd_per_hour", "all devices that are held are paid"),
        ('(home() / "prices.yaml", SHIPPED)', '(SHIPPED, home() / "prices.yaml")', "a user's own prices go first"),
        (
            '    if runtime.price_usd_per_hour:\n        return runtime.price_usd_per_hour, "',
            '    if False:\n        return runtime.price_usd_per_hour, "',
            "the price that is given beats the tables",
        ),
        ('return (None, "price unknown")', 'return (0.0, "price unknown")', "an unknown price is not nothing"),
        ("usd_per_hour: float = Field(ge=0,", "usd_per_hour: float = Field(", "no price is negative"),
        ("offer[1].memory_gib * 2**30", "offer[1].memory_gib * 10**9", "memory of a device is binary"),
        (
            "choose_device(runtime.device, runtime.ranks - 1)  # the last",
            "choose_device(runtime.device)  # the last",
            "there must be a GPU for each rank",
        ),
        ("if offer is None and peak == math.inf:", "if False:", "a GPU that nobody knows is refused"),
    ),
    *_of(
        "models/device.py",
        f"{_PLAN}/test_machine.py",
        (
            "any(have[i : i + len(words)] == words for i in range(len(have)))",
            "name.lower() in device_name.lower()",
            "a GPU is known by whole words",
        ),
        (
            "any(have[i : i + len(words)] == words for i in range(len(have)))",
            "device_name == name",
            "a GPU is known by words of its full name",
        ),
    ),
    *_of(
        "core/runtime.py",
        "tests/core/test_runtime.py",
        ('self.world_size if device_type == "cuda" else self.nodes', "self.nodes", "every rank holds a GPU"),
        ('self.world_size if device_type == "cuda" else self.nodes', "self.world_size", "ranks share a processor"),
        ("return self.ranks * self.nodes", "return self.ranks", "ranks of all machines count"),
    ),
    *_of(
        "flows/plan/budget.py",
        f"{_PLAN}/test_budget.py",
        ("return min(limits)", "return max(limits)", "the smaller of money and hours counts"),
        ("(self._runtime.budget_usd - spent.usd)", "self._runtime.budget_usd", "money that was spent is gone"),
        ("* 3600 - spent.wall_s)", "* 3600 - spent.device_s)", "hours are those of the clock"),
        ("* self._machine.devices / 3600", "/ 3600", "a second costs what all devices cost"),
        ("used_device_s + may_use_s * self._machine.devices", "used_device_s + may_use_s", "budget of every device"),
        ('"budget_s": used_device_s +', '"budget_s":', "what a stage has used is not taken twice"),
        (
            "self.left_s - self._reserve_s(self._estimator",
            "self.left_s - 0 * self._reserve_s(self._estimator",
            "reserve",
        ),
        ("return RESERVE_MARGIN * known_s", "return known_s", "other stages are kept more than estimated"),
        ("if stage is not training]", "]", "a training is not kept from itself"),
        ("if store.problem(stage.artifact) is not None]", "]", "what is built needs no reserve"),
        (
            "        if self.left_s <= 0:\n            raise UserError(self._spent())\n        if not STAGES",
            "        if not STAGES",
            "no stage starts when nothing is left",
        ),
        ("or allowance.training_s >= allowance.least_s", "or True", "a budget below the warm-up is refused"),
        ("cost.train.warmup_steps + 1 - training.step", "1", "the warm-up is what training cannot do without"),
        ("and not self._machine.usd_per_hour:", "and False:", "money without a price is refused"),
        ("{base.key[:12]}", "0", "another run has a budget of its own"),
        ("        ledger.tick()", "        pass", "time is charged as it passes, also of what is killed"),
        ("            ledger.close()", "            pass", "what remains at the end is charged"),
        ("machine.devices, machine.usd_per_hour or 0.0", "1, machine.usd_per_hour or 0.0", "the ledger's devices"),
    ),
    *_of(
        "flows/plan/estimate.py",
        f"{_PLAN}/test_estimate.py "
        f"{_PLANNED}::test_training_takes_the_steps_of_each_phase_and_evaluations_on_every_device "
        f"{_PLANNED}::test_all_devices_are_held_and_paid_while_one_of_them_computes "
        f"{_PLANNED}::test_of_several_artifacts_alike_the_newest_says_how_long_it_takes",
        ("left = train.steps - stage.step", "left = train.steps", "steps that were made are not paid again"),
        ("/ (rate.flops_per_s / self.machine.devices)", "/ rate.flops_per_s", "one device computes while all are held"),
        ("flops.forward * self.machine.devices  #", "flops.forward  #", "each device measures all held-out text"),
        (
            "cost.text_bytes / read_bytes if cost.text_bytes and read_bytes else 1.0",
            "1.0",
            "what took its time takes it again for as much text",
        ),
        ("newest, scale = max(alike,", "newest, scale = min(alike,", "the newest artifact says how long it takes"),
        (
            "    if cost.wall_s is None:\n            return Estimate(None",
            "    if False:\n            return Estimate(None",
            "unknown",
        ),
        ("flops.forward + flops.backward)\n", "flops.forward)\n", "training goes forward and backward"),
        ("end - max(first_step, phase.first_step)", "end - phase.first_step", "steps left of each phase"),
    ),
    *_of(
        "flows/plan/training_rate.py",
        f"{_PLANNED}::test_speed_is_counted_for_a_gpu_and_measured_on_this_kind_of_device_if_it_was_ever "
        f"{_PLANNED}::test_a_speed_that_was_not_measured_on_as_many_devices_is_linear_in_them",
        ("rate.flops_per_s * devices / known_devices", "rate.flops_per_s", "a rate is that of all devices"),
        (
            "if math.isinf(their_peak) != math.isinf(peak_flops_per_s):",
            "if False:",
            "a processor's speed is none of a GPU's",
        ),
        ("> ALIKE_SIZE:", "> 1e9:", "another size of model goes at another speed"),
        ("Rate(utilisation * gpu.peak", "Rate(gpu.peak", "nobody trains at the peak"),
    ),
    *_of(
        "tasks/trainer/course/pace.py",
        f"{_TRAINER}/course/test_pace.py",
        (
            "step + max(0, math.floor((left_s - closing_s)",
            "step + max(0, math.floor((left_s)",
            "the end of a run takes time",
        ),
        ("if affordable >= course.end:", "if affordable > course.end + 10:", "a budget that suffices changes nothing"),
        ("if affordable <= step:", "if False:", "at the wall a run ends where it is"),
        (
            "affordable - course.recipe.decay_steps > step",
            "affordable > step",
            "a whole decay is kept for the end",
        ),
        ("if not course.decaying(step) and", "if False and", "a slow hour that passes costs nothing"),
        ("(affordable - step) * (1 - MARGIN)", "(affordable - step) * 1.5", "a cut keeps a margin"),
        ("if self._steps > WARMING_STEPS:", "if True:", "the first steps are slow"),
        (">= FEWEST_STEPS else None", ">= 1 else None", "one step is none to go by"),
        ("maxlen=RECENT_STEPS", "maxlen=None", "the recent steps are gone by"),
        ("+ 2 * self._save_s", "", "the last checkpoint and the portable one take time"),
        ("return self._evaluation_s +", "return", "the last evaluation takes time"),
        ("took_s, self._last = now - self._last, now", "took_s = now - self._last", "a step's time is its own"),
        ("max(self._save_s, seconds)", "seconds", "the slowest checkpoint is reckoned with"),
    ),
    *_of(
        "tasks/trainer/run.py",
        f"{_TRAINER}/test_budget.py",
        ("- self._journal.device_s) / self._devices", "- self._journal.device_s)", "a budget is for every device"),
        ("(budget_s - self._journal.device_s)", "(budget_s)", "what is used of a budget is gone"),
        ("self._world.from_first(course)", "course", "all ranks keep to one course"),
    ),
    *_of(
        "tasks/stage_task.py",
        "tests/tasks/test_stage_task.py",
        ("* runtime.devices(choose_device(runtime.device).type)", "", "a stage costs what all devices cost"),
        (
            'facts.pop("cost_usd", round(',
            'facts.get("nothing", round(',
            "a training's own ledger says what it has cost",
        ),
        ('facts.pop("wall_s", share.seconds)', "share.seconds", "all attempts took time"),
    ),
    *_of(
        "tasks/cost.py",
        "tests/tasks/test_cost.py",
        ("+ 0.5 * math.log2", "+ 0.0 * math.log2", "tokens of a large vocabulary are longer"),
        (
            "if tokenizer.path is not None or tokenizer.hub is not None:",
            "if False:",
            "a loaded tokenizer is a large one",
        ),
    ),
]
