"""Dense steps of PyTorch diffusers, timed in a process of its own; prints JSON.

    python benchmarks/diffusers_step.py '{"transformer": {...}, "latents": [16, 21, 90, 160],
        "text_tokens": 512, "steps": 5, "device": "cuda", "dtype": "bfloat16"}'

`transformer` is a `config.json`. Weights and inputs are random. A step is both guidance branches,
guidance and UniPC's step, as in diffusers' own pipeline, which runs the branches one after the
other ("apart"); both in one batch ("together") is timed as well, for a fair yardstick, unless
`ways` has fewer. `warm_up` steps come before those that count (2).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    print(json.dumps(measure(json.loads(sys.argv[1]))))


def measure(case: dict[str, Any]) -> dict[str, Any]:
    import diffusers
    import torch

    device, dtype = case["device"], getattr(torch, case["dtype"])
    torch.set_default_dtype(dtype)
    with torch.device(device):
        config = dict(case["transformer"])
        model = diffusers.WanTransformer3DModel(**{k: v for k, v in config.items() if k[0] != "_"})
        model.eval()
        latents = torch.randn(1, *case["latents"])
        text = torch.randn(2, case["text_tokens"], config["text_dim"])
    name = torch.cuda.get_device_name() if device == "cuda" else device
    seconds = {}
    with torch.inference_mode():
        for way in case.get("ways", ("apart", "together")):
            scheduler = diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
            )
            warm_up = case.get("warm_up", 2)
            scheduler.set_timesteps(warm_up + case["steps"], device=device)
            seconds[way] = _steps(torch, model, scheduler, latents, text, way)[warm_up:]
    return {
        "seconds": seconds,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": case["dtype"],
    }


def _steps(torch: Any, model: Any, scheduler: Any, latents: Any, text: Any, way: str) -> Any:
    """Seconds of each step."""
    extra = model.config.in_channels - latents.shape[1]  # an image's condition
    condition = torch.zeros(
        1, extra, *latents.shape[2:], dtype=latents.dtype, device=latents.device
    )
    seconds = []
    for timestep in scheduler.timesteps:
        began = time.perf_counter()
        x = torch.cat([latents, condition], 1)
        if way == "apart":
            at = timestep.expand(1)
            outputs = [model(x, at, t[None], return_dict=False)[0] for t in text]
        else:
            both = model(x.expand(2, -1, -1, -1, -1), timestep.expand(2), text, return_dict=False)
            outputs = both[0].split(1)
        conditional, unconditional = outputs
        guided = unconditional + 5.0 * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        if latents.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
