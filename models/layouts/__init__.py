"""The published systems whose checkpoints we read and write, by the name of their layout."""

from __future__ import annotations

from models.layouts import huginn, polychromatic
from models.layouts.layout import Layout

LAYOUTS: dict[str, Layout] = {"polychromatic": polychromatic.LAYOUT, "huginn": huginn.LAYOUT}
