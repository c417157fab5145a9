"""Comparisons with the reference implementation; without it nothing here is collected."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # two OpenMP threads on two cores can spin against each other
