"""What the comparisons share: the error that counts, and random weights that test everything."""

from __future__ import annotations

import numpy as np
import torch


def relative_error(ours, reference) -> float:
    """Maximum error over maximum value."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def randomize(module, seed: int = 0):
    """Give every parameter a non-trivial value, so that no scale or bias goes untested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_scale = p.ndim == 1 and name.endswith(("weight", "gamma"))
            p.copy_(1 + 0.2 * noise if is_scale else noise * _spread(p))
    return module.eval().float()


def _spread(p) -> float:
    return 0.3 if p.ndim < 2 else float(p[0].numel()) ** -0.5
