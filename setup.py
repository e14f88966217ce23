"""The folders at the top are the parts of one package: `flows/` installs and imports as `athanor.flows`, and so on."""

from setuptools import find_packages, setup

ROOMS = ("flows", "tasks", "reports", "models", "kernels", "data", "core")

setup(
    packages=[f"athanor.{name}" for name in find_packages(include=[f"{room}*" for room in ROOMS])],
    package_dir={f"athanor.{room}": room for room in ROOMS},
)
