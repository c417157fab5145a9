"""What a server answers: OpenAI's video object, and beside it what a plan makes known."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from wanjax.serve.jobs import Job


class VideoError(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    """OpenAI's fields first; `null` for what is not known yet.

    `eta_seconds` until the video is there, `queue_position` from 0 on for those that wait,
    `plan` a character a step (`#` computed, `.` skipped, `+` in part, `?` decided meanwhile).
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None
    error: VideoError | None

    eta_seconds: float | None
    queue_position: int | None
    plan: str
    method: str
    ideal_speedup: float
    steps: int
    steps_done: int
    seed: int
    num_frames: int
    fps: int
    values: dict[str, Any]
    started_at: float | None
    inference_time_s: float | None
    predicted_time_s: float | None
    stage_durations: dict[str, float] | None
    peak_memory_mb: float | None
    warnings: list[str]


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class ServedModel(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "wanjax"
    loras: list[str] = []


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ServedModel]


def video(
    job: Job,
    *,
    progress: int | None = None,
    steps_done: int | None = None,
    eta: float | None = None,
    position: int | None = None,
) -> Video:
    """A job as its client sees it; what is left out is as the job's row has it."""
    facts, result = job.facts, job.result
    ended = job.state in ("completed", "failed")
    done = result.get("steps", facts["steps"]) if job.state == "completed" else 0
    return Video.model_validate(
        {
            "id": job.id,
            "model": job.model,
            "status": job.state,
            "progress": job.progress if progress is None else max(progress, job.progress),
            "created_at": int(job.created_at),
            "completed_at": _second(job.completed_at),
            "expires_at": _second(job.expires_at),
            "prompt": job.values["prompt"],
            "seconds": f"{facts['num_frames'] / facts['fps']:.4g}",
            "size": f"{facts['width']}x{facts['height']}",
            "remixed_from_video_id": job.remixed_from,
            "error": job.error,
            "eta_seconds": None if ended or eta is None else round(eta, 3),
            "queue_position": position,
            "plan": result.get("plan", facts["plan"]),
            "method": facts["method"],
            "ideal_speedup": round(facts["ideal_speedup"], 4),
            "steps": facts["steps"],
            "steps_done": done if steps_done is None else steps_done,
            "seed": job.values["seed"],
            "num_frames": facts["num_frames"],
            "fps": facts["fps"],
            "values": job.values,
            "started_at": job.started_at,
            "inference_time_s": result.get("inference_time_s"),
            "predicted_time_s": result.get("predicted_time_s"),
            "stage_durations": result.get("stage_durations"),
            "peak_memory_mb": result.get("peak_memory_mb"),
            "warnings": [*facts["warnings"], *result.get("warnings", [])],
        }
    )


def _second(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
