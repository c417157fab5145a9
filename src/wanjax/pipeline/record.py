"""The record beside a video: how it was made, and what it cost."""

from __future__ import annotations

import functools
import json
from importlib.metadata import version
from typing import Any

import jax

from wanjax.checkpoints.presence import commit_of
from wanjax.config.keys import Config
from wanjax.config.saved import digests, kept
from wanjax.files import without_home
from wanjax.media.video_files import VideoFile
from wanjax.pipeline.host import commit, host
from wanjax.pipeline.video import Video

_PACKAGES = ("wanjax", "jax", "jaxlib", "flax", "numpy", "av", "tokenizers", "safetensors")


def make_record(config: Config, video: Video, file: VideoFile) -> dict[str, Any]:
    """How a video was made: enough to make it again, what it cost, what its file lost."""
    return {"config": kept(config)} | without_home(_facts(config, video, file)) | environment()


def _facts(config: Config, video: Video, file: VideoFile) -> dict[str, Any]:
    stages = {name: round(seconds, 4) for name, seconds in video.timings.stages.items()}
    return {
        "model_commit": commit_of(str(config.model), config.revision),
        "inputs": digests(config),
        "plan": video.plan.to_dict() | video.memory.to_dict(),
        "video": file.to_dict(),
        "seconds": stages | {"compile": round(video.timings.compile, 4)},
        "step_seconds": [round(seconds, 5) for seconds in video.timings.steps],
        "peak_memory_bytes": video.timings.peak_memory,
    }


def make_tags(config: Config) -> dict[str, str]:
    """What stands in the video's own file: the prompt, and the settings that it runs again by."""
    settings = {name: value for name, value in kept(config).items() if name != "output"}
    about = {"wanjax": version("wanjax"), "config": settings}
    return {"title": config.prompt, "comment": json.dumps(about, ensure_ascii=False)}


def environment() -> dict[str, Any]:
    """What a video and its cost depend on besides the configuration: machine, versions, commit."""
    device = jax.devices()[0]
    return {
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
        },
        "host": host(),
        "packages": _versions(),
        "commit": commit(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}
