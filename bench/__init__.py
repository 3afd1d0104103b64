"""Benchmarks: ``python -m bench kernels``, ``python -m bench flat`` and ``python -m bench report``."""
