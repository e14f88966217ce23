"""How the threads of a computation wait for one another where other programs want the cores, too."""

from __future__ import annotations

# To be in the environment before torch is imported. GNU OpenMP spins at its barriers; briefly is full speed alone, and
# not a tenth of it beside others.
SHARING_CORES = {"GOMP_SPINCOUNT": "1000"}
