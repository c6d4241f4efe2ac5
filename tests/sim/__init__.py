"""The simulator: the real root, fronts and workers in one trio run, on a machine that one integer decides.

`world.py` puts a run together, `kernel.py` is the operating system, `nemesis.py` breaks things, `checkers.py` judges
the history. See docs/simulator.md.
"""
