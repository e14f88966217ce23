"""Benchmarks: local lm-eval task files, how tasks are found and fed, and how answers become scores."""
