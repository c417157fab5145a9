"""A server's parts, put together: store, queue, models and the thread that works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from wanjax.config.keys import Config
from wanjax.errors import UsageError
from wanjax.media.video_files import read_video
from wanjax.planning.run import Run
from wanjax.serve.auth import Tokens
from wanjax.serve.errors import ApiError, not_found, refused
from wanjax.serve.eta import parts_of, programs_of, shape_of
from wanjax.serve.jobs import Job, Jobs, Page, new_id
from wanjax.serve.logs import LOG
from wanjax.serve.loras import require_folder
from wanjax.serve.metrics import Metrics
from wanjax.serve.model import Model
from wanjax.serve.peers import Doing, Peers, server_id
from wanjax.serve.queue import Queue
from wanjax.serve.ready import Ready
from wanjax.serve.requests import read_request, remixed, save_pictures, typed
from wanjax.serve.schemas import Video, video
from wanjax.serve.storage import Storage, is_id
from wanjax.serve.worker import Worker

_PAGE = 100  # videos in an answer, at most


class TakenError(UsageError):
    """The store is another server's."""


class Server:
    """All that the routes ask for. Raises `UsageError` for a store that cannot be had."""

    def __init__(self, models: Mapping[str, Model], config: Config):
        folder = Path(config.store).expanduser().absolute()
        self.models, self.config = dict(models), config
        self.tokens = Tokens.read(config.tokens)
        require_folder(config.lora_folder)
        self.largest = int(config.max_upload * 2**20)  # bytes of a request
        self.told_to_end: Callable[[], bool] = lambda: False  # whoever runs the server knows
        self._decoding, self._drawing = threading.Lock(), threading.Lock()
        self._orphans: set[str] = set()
        self._lock = _alone(folder)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            self.storage = Storage(folder, config.files)
            self.jobs = Jobs(config.database or f"sqlite:///{folder / 'jobs.db'}")
            undo.callback(self.jobs.close)
            own = server_id(folder)
            self.peers = Peers(self.jobs, self.storage, own, config.lease, self._doing)
            self._undo = undo.pop_all()
        self.there = Ready(next(iter(models)))
        self.queue = Queue(self.jobs, own, config.max_queue, models, self.there, self._free_in)
        self.metrics = Metrics(self.jobs)
        keep = None if config.keep_hours is None else config.keep_hours * 3600
        self.worker = Worker(self.models, self.queue, self.there, self.storage, self.metrics, keep)

    def start(self) -> None:
        """Begin to work, and tell the others so."""
        self.worker.start()
        self.peers.start()

    def close(self) -> None:
        """End the work: finished within the grace, or given back to the queue."""
        self.worker.stop(self.config.grace)
        self.peers.stop()
        self.queue.keep_speeds()
        self._undo.close()

    def create(self, body: Mapping[str, object], client: str) -> Job:
        """Accept a job. Raises `ApiError`."""
        model = self.model(body.get("model"))
        asked = read_request(body, model.config)
        return self._accept(model, asked.values, asked.pictures, client)

    def consider(self, body: Mapping[str, object]) -> tuple[Run, float | None]:
        """What `create` would make of it: its run, and seconds (None: nothing like it is known).

        Nothing is queued or kept. Raises `ApiError`.
        """
        model = self.model(body.get("model"))
        asked = read_request(body, model.config)
        with self.storage.making(new_id()) as folder:
            run, _ = self._prepared(model, asked.values, asked.pictures, folder)
        shape = shape_of(model.name, run.config)
        before = self.there.before(programs_of(shape, run), model.name)
        parts = before + parts_of(run, model.configs)
        return run, self.queue.speeds.estimate(shape, parts)

    def size_of(self, picture: bytes) -> tuple[int, int]:
        """Width and height of a picture that was sent. Raises `ApiError` for what is none."""
        with self.storage.making(new_id()) as folder, self._decoding:
            path = save_pictures({"image": picture}, folder)["image"]
            with Image.open(path) as image:
                return image.size

    def preview(self, video_id: str) -> Image.Image | None:
        """What a video that is being made looks like so far; from now on it is looked at."""
        live = self.worker.live
        return live.look() if live is not None and live.job.id == video_id else None

    def remix(self, video_id: str, body: Mapping[str, object], client: str) -> Job:
        """The same video from another prompt, with the same seed unless another is given."""
        source = self.get(video_id, client)
        if source.model not in self.models:
            raise ApiError(400, f"the model {source.model} is served no longer", param="video_id")
        model = self.models[source.model]
        if body.get("model", source.model) != source.model:
            raise ApiError(400, "a remix is made by the model of its video", param="model")
        asked = read_request(body, model.config)
        if "prompt" not in asked.values:
            raise ApiError(400, "prompt is missing: say what the video shows", param="prompt")
        pictures = {Path(name).stem: self.read(video_id, name) for name in source.pictures}
        values = remixed(source.values, asked)
        return self._accept(model, values, pictures | asked.pictures, client, source.id)

    def get(self, video_id: str, client: str | None) -> Job:
        """Raises `ApiError` for a video that is not there, or not this client's."""
        job = self.jobs.get(video_id, self._owner(client)) if is_id(video_id) else None
        if job is None or (job.expires_at is not None and job.expires_at < time.time()):
            raise not_found(video_id[:60])
        return job

    def page(self, client: str, after: str | None, limit: int, order: str) -> Page:
        """A part of the client's list. Raises `ApiError`."""
        if not 1 <= limit <= _PAGE:
            raise ApiError(400, f"limit={limit}: must be from 1 to {_PAGE}", param="limit")
        known = after is None or is_id(after)
        found = self.jobs.page(self._owner(client), after, limit, order) if known else None
        if found is None:
            raise ApiError(400, "after: there is no such video", param="after")
        return found

    def draw(self, video_id: str, name: str, save: Callable[[np.ndarray, Path], None]) -> None:
        """Make a picture of a finished video by its frames, if it is not there: few are asked for.

        Raises `ApiError` where the video is gone.
        """
        if self.storage.size(video_id, name) is not None:
            return
        with self._drawing, self.storage.making(video_id) as folder:
            if self.storage.size(video_id, "video.mp4") is None:
                raise not_found(video_id)
            video = self.storage.fetch(video_id, "video.mp4", folder)
            frames = read_video(video)
            video.unlink()
            save(frames, folder / name)
            self.storage.keep(video_id, folder)
            if self.jobs.get(video_id) is None:  # deleted meanwhile
                self.storage.remove(video_id)

    def expire(self) -> None:
        """Forget what was kept as long as it was to be, and files that are nobody's.

        Files come before their job, when a picture is sent, and are nobody's for a moment; those
        that were so the last time, too, are of a server that was killed then.
        """
        for video_id in self.jobs.expired():
            if self.jobs.delete(video_id):  # else another server was faster
                self.storage.remove(video_id)
                LOG.info("expired", extra={"video": video_id})
        orphans = self.storage.ids() - self.jobs.ids()
        for video_id in orphans & self._orphans:
            self.storage.remove(video_id)
        self._orphans = orphans
        self.queue.keep_speeds()

    def _owner(self, client: str | None) -> str | None:
        """Whose videos a client sees: with tokens its own, else all."""
        return client if self.tokens.clients else None

    def show(self, job: Job) -> Video:
        """A job as it is now, whichever server makes it."""
        live = self.worker.live
        if job.state == "in_progress" and live is not None and live.job.id == job.id:
            done = {"progress": live.progress, "steps_done": live.steps_done}
            return video(job, eta=live.eta, **done)
        if job.state == "in_progress" and (at := self.peers.doing(job.owner)).job == job.id:
            return video(job, eta=at.left, steps_done=at.steps_done)
        place = self.queue.place(job.id) if job.state == "queued" else None
        if place is None:
            return video(job)
        return video(job, eta=place.eta, position=place.position)

    def _doing(self) -> Doing | None:
        """What the others are told; None once the worker has failed: its video is theirs then."""
        live = self.worker.live
        if self.worker.failed is not None:
            return None
        if live is None:
            return Doing()
        return Doing(live.job.id, live.steps_done, live.eta)

    def _free_in(self) -> list[float | None]:
        live = self.worker.live
        return [0.0 if live is None else live.eta, *self.peers.free_in()]

    def delete(self, video_id: str, client: str | None) -> None:
        """Forget a video; one that is being made ends after the step that is being computed."""
        job = self.get(video_id, client)
        self.jobs.delete(job.id)
        self.worker.cancel(job.id)
        live = self.worker.live
        if live is None or live.job.id != job.id:  # else the worker does it
            self.storage.remove(job.id)
        self.queue.wake()

    def _require_small(self, config: Config) -> None:
        """Raise `ApiError` for a video beyond the server's limits."""
        pixels = config.width * config.height * config.num_frames
        if pixels > self.config.max_pixels:
            size = f"{config.width}x{config.height} in {config.num_frames} frames"
            text = f"{size}: {pixels:,} pixels, at most {self.config.max_pixels:,} are made here"
            raise ApiError(400, f"{text}: take fewer frames or a smaller size", code="too_large")
        if config.num_inference_steps > self.config.max_steps:
            text = (
                f"num_inference_steps={config.num_inference_steps}: at most {self.config.max_steps}"
            )
            raise ApiError(400, text, code="too_many_steps", param="num_inference_steps")

    def model(self, name: object) -> Model:
        """The one of that name, or the first. Raises `ApiError`."""
        if name is None:
            return next(iter(self.models.values()))
        if not isinstance(name, str) or name not in self.models:
            known = ", ".join(self.models)
            text = f"the model {str(name)[:60]!r} is not served here; served: {known}"
            raise ApiError(404, text, code="model_not_found", param="model")
        return self.models[name]

    def read(self, video_id: str, name: str) -> bytes:
        """A file of a video's, whole. Raises `ApiError` where it is gone."""
        size = self.storage.size(video_id, name)
        if size is None:
            raise not_found(video_id)
        return b"".join(self.storage.read(video_id, name, 0, size - 1))

    def _prepared(
        self,
        model: Model,
        values: dict[str, object],
        pictures: Mapping[str, bytes],
        folder: Path,
    ) -> tuple[Run, dict[str, Path]]:
        """The run that is asked for, and its pictures in `folder`. Raises `ApiError`."""
        if model.needs_picture and "image" not in pictures:
            text = f"input_reference is missing: {model.name} is image to video; send a picture"
            raise ApiError(400, text, code="missing_parameter", param="input_reference")
        with self._decoding:  # one at a time: a picture may take much memory
            paths = save_pictures(pictures, folder)
        values.setdefault("seed", "random")
        try:
            config = model.configured(model.args, values, folder, paths)
            self._require_small(config)
            return model.run(config), paths
        except UsageError as error:
            raise refused(error) from None

    def _accept(
        self,
        model: Model,
        values: dict[str, object],
        pictures: Mapping[str, bytes],
        client: str,
        source: str | None = None,
    ) -> Job:
        video_id = new_id()
        with self.storage.making(video_id) as folder:
            run, paths = self._prepared(model, values, pictures, folder)
            drawn = {"seed": run.config.seed}
            job = _job(video_id, client, model, typed(values) | drawn, run, source)
            job.pictures = [path.name for path in paths.values()]
            if paths:
                self.storage.keep(video_id, folder)
        if not self.queue.add(job):
            self.storage.remove(video_id)
            raise ApiError(
                429,
                f"{self.config.max_queue} videos wait already: try again later",
                code="queue_full",
                kind="rate_limit_error",
            )
        return job


def _job(
    video_id: str,
    client: str,
    model: Model,
    values: dict[str, object],
    run: Run,
    source: str | None,
) -> Job:
    config, plan, shape = run.config, run.plan, shape_of(model.name, run.config)
    parts = [[part.name, part.count, part.work] for part in parts_of(run, model.configs)]
    return Job(
        id=video_id,
        client=client,
        model=model.name,
        arguments=model.args,
        values=values,
        pictures=[],
        programs=programs_of(shape, run),
        facts={
            "shape": shape,
            "parts": parts,
            "width": config.width,
            "height": config.height,
            "num_frames": config.num_frames,
            "fps": config.fps,
            "steps": len(plan.steps),
            "plan": plan.strip(),
            "method": plan.method,
            "ideal_speedup": plan.ideal_speedup,
            "warnings": list(plan.warnings),
        },
        created_at=time.time(),
        remixed_from=source,
    )


def _alone(folder: Path) -> FileLock:
    """One server a store: what it was making when it was killed is made again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", thread_local=False)
        lock.acquire(timeout=0)
    except Timeout:
        raise TakenError(f"store={folder}: another server uses it; name another folder") from None
    except OSError as error:
        raise UsageError(f"store={folder}: nothing can be kept there: {error}") from error
    return lock
