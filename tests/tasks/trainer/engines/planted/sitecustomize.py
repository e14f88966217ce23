"""Loaded by every Python process that finds this folder on its path: plants into ranks what tests want to see.

ROWS_READ names a file that gets one line for each batch a rank reads: step, slots, and the key and first tokens of each
row. BAD_STEPS lists steps (1-based) in which the loss of slot BAD_SLOT is not a number.
"""

import json
import os

BAD_SLOT = 3


def install(replace=setattr):
    from athanor.data.loader import MixtureLoader, _row_keys
    from athanor.models.families.vanilla.model import Vanilla

    read, healthy = MixtureLoader.batch, Vanilla.loss
    bad_keys = {int(_row_keys(0, step - 1, [BAD_SLOT])[0]) for step in json.loads(os.environ["BAD_STEPS"])}

    def batch(self, step, slots):
        found = read(self, step, slots)
        rows = zip(slots, found.row_key_B.tolist(), found.ids_BT[:, :4].tolist(), strict=True)
        with open(os.environ["ROWS_READ"], "a") as file:
            file.writelines(json.dumps([step, *row]) + "\n" for row in rows)
        return found

    def loss(self, ids_BT, targets_BT, doc_start_BT=None, row_key_B=None, **other):
        found = healthy(self, ids_BT, targets_BT, doc_start_BT, row_key_B, **other)
        if bad_keys.isdisjoint(row_key_B.tolist()):
            return found
        return found._replace(total=found.total * float("nan"))

    replace(MixtureLoader, "batch", batch)
    replace(Vanilla, "loss", loss)


if "ROWS_READ" in os.environ and "RANK" in os.environ:
    install()
