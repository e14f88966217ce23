"""The files in the folder of a training run: named once, for the process that writes them and for all who read them."""

from __future__ import annotations

SPEC = "run.json"  # what to train: the one input
METRICS = "metrics.jsonl"  # a row for every step, evaluation and event
LEDGER = "ledger.jsonl"  # device time and money, over all attempts
SCHEDULE = "schedule.json"  # every schedule as declared
SUMMARY = "summary.json"  # how the run went: steps planned and done, cuts, rollbacks
BAD_SAMPLES = "bad_samples.jsonl"  # what the steps that were not learned from had read
WANDB_ID = "wandb_run.json"  # the run's id at Weights & Biases
LOG = "trainer.log"  # output of the process

CHECKPOINTS = "checkpoints"  # a folder for each of them
CHECKPOINT_MANIFEST = "manifest.json"  # in each of these: what makes it whole
CHECKPOINT_STATE = "state.json"  # in each of these: all that is no tensor

LOCK = "trainer.lock"  # held by the attempt at work
HEARTBEAT = "heartbeat.json"  # when it was last seen working
OUTCOME = "outcome.json"  # how an attempt of several ranks ended
HOSTS = "hostfile"  # the machines of a run, for DeepSpeed's launcher
STOPPING = "stopping.json"  # how long a stop may take
SLICES = "slices.json"  # how much the next attempt may compute at once
OF_THE_PROCESS = (LOCK, HEARTBEAT, OUTCOME, HOSTS, STOPPING, SLICES)  # of no use once the run is over
