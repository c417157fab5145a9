"""What the page does, for one client each: the same calls as the API's routes."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from wanjax.evaluate.metrics import mean_psnr, psnr
from wanjax.media.video_files import read_video
from wanjax.serve.errors import ApiError
from wanjax.serve.jobs import new_id
from wanjax.serve.page import views
from wanjax.serve.page.dials import dials_of
from wanjax.serve.page.form import Form, empty, refilled
from wanjax.serve.requests import read_request
from wanjax.serve.schemas import Video
from wanjax.serve.server import Server

_SHOWN = 24  # videos of the gallery
_COMPARED = 100  # pairs whose distance is remembered
_SHAPE, _LONGEST = re.compile("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})"), 2000


@dataclass(frozen=True)
class Stage:
    """What is shown of a video and of its dense twin."""

    video: Video | None
    twin: Video | None
    html: str
    twin_html: str

    @property
    def ended(self) -> bool:
        """Whether nothing more is going to change by itself."""
        shown = [video for video in (self.video, self.twin) if video is not None]
        return all(video.status in ("completed", "failed") for video in shown)

    @property
    def comparable(self) -> bool:
        """Whether a dense twin of it can be made."""
        video = self.video
        cached = video is not None and video.method != "dense"
        return cached and self.ended and not self.twin_html


class Actions:
    """Of a server. Whatever the server refuses is an `ApiError`."""

    def __init__(self, server: Server):
        self.server = server
        self._distances: OrderedDict[tuple[str, str], float] = OrderedDict()

    def empty(self, model: str | None = None) -> Form:
        """The form to begin with."""
        served = self.server.model(model)
        return empty(served.name, served.config)

    def plan(self, form: Form, shape: str) -> str:
        """The plan's picture; `shape` is the picture's size as WIDTHxHEIGHT, or empty.

        It stands for the picture, which is sent once and not with every move of the slider.
        """
        model = self.server.model(form.model)
        body = replace(form, picture="", prompt=form.prompt.strip() or "a").request(model.config)
        known = _SHAPE.fullmatch(shape)
        if known is None and model.needs_picture:  # it is planned as if it had the usual shape
            known = _SHAPE.fullmatch(f"{model.config.width // 16}x{model.config.height // 16}")
        if known is not None:
            blank = io.BytesIO()
            Image.new("1", (int(known[1]), int(known[2]))).save(blank, "PNG")
            body["input_reference"] = blank.getvalue()
        run, seconds = self.server.consider(body)
        return views.plan(run, seconds, self.server.jobs.counts()["queued"])

    def submit(self, form: Form, client: str) -> Video:
        config = self.server.model(form.model).config
        return self.server.show(self.server.create(form.request(config), client))

    def cancel(self, video: str, client: str) -> None:
        self.server.delete(video, client)

    def twin(self, video: str, client: str) -> Video:
        """The same video without a cache: what the cached one is to be compared with."""
        prompt = self.server.get(video, client).values["prompt"]
        body = {"prompt": prompt, "cache": "none"}
        return self.server.show(self.server.remix(video, body, client))

    def stage(self, video: str, twin: str, client: str) -> Stage:
        """Both as they are now; a video that is gone is told as such."""
        shown, html = self._one(video, client)
        other, twin_html = self._one(twin, client)
        if shown is not None and other is not None and _both_done(shown, other):
            apart = f"{self._distance(video, twin):.1f} dB from dense as compressed"
            own, dense = (_denoising(made) for made in (shown, other))
            html = views.stage(shown, note=f"{apart}; {own} of denoising against {dense}")
        return Stage(shown, other, html, twin_html)

    def pair(self, video: str, client: str) -> tuple[str, str]:
        """A video, and nothing; of a dense twin the video that it is the twin of, and itself."""
        job = self.server.get(video, client)
        source = self.server.jobs.get(job.remixed_from or "", job.client)
        if source is None or job.facts["method"] != "dense":
            return video, ""
        same = all(job.values.get(key) == source.values.get(key) for key in ("prompt", "seed"))
        return (source.id, video) if same else (video, "")

    def unfinished(self, client: str) -> str:
        """The client's newest video that is not done, or an empty text."""
        jobs = self.server.page(client, None, _SHOWN, "desc").jobs
        going = (job for job in jobs if job.state in ("queued", "in_progress"))
        return next((job.id for job in going if job.client == client), "")

    def turned(self, model: str, method: str, key: str | None) -> Form:
        """The form with another method, or another of its dials, where the slider begins."""
        begin, dials = self.empty(model), dials_of(method)
        if begin.method == method and key in (None, begin.dial):
            return begin
        dial = next((dial for dial in dials if dial.key == key), dials[0] if dials else None)
        if dial is None:
            return replace(begin, method=method, dial=None, value=0.0)
        return replace(begin, method=method, dial=dial.key, value=dial.start)

    def gallery(self, client: str, after: str = "") -> str:
        """The client's videos, the newest first, or those before the video `after`."""
        try:
            found = self.server.page(client, after or None, _SHOWN, "desc")
        except ApiError:  # it is deleted
            return self.gallery(client)
        shown = [self.server.show(job) for job in found.jobs]
        return views.gallery(shown, newest=not after, has_more=found.has_more)

    def again(self, video: str, client: str) -> Form:
        """The form that makes a finished video again."""
        job = self.server.get(video, client)
        model = self.server.model(job.model)
        if job.state != "completed":
            raise ApiError(400, f"this video is {job.state}: it has no record yet")
        record = json.loads(self.server.read(video, "record.json"))
        picture = ""
        if "image.png" in job.pictures:
            picture = data_url(self.server.read(video, "image.png"))
        return refilled(model.name, model.config, record, picture)

    def look(self, picture: str) -> str:
        """The shape of a picture that was chosen, as WIDTHxHEIGHT; a large one's in small."""
        if not picture:
            return ""
        asked = read_request({"input_reference": {"image_url": picture}}, self.server.config)
        sides = self.server.size_of(asked.pictures["image"])
        less = max(1.0, max(sides) / _LONGEST)
        width, height = (max(1, round(side / less)) for side in sides)
        return f"{width}x{height}"

    def _one(self, video: str, client: str) -> tuple[Video | None, str]:
        if not video:
            return None, ""
        try:
            shown = self.server.show(self.server.get(video, client))
        except ApiError:
            return None, views.stage(None, note="This video is deleted.")
        preview = self.server.preview(video) if shown.status == "in_progress" else None
        return shown, views.stage(shown, preview)

    def _distance(self, video: str, twin: str) -> float:
        """PSNR in dB of the two files' frames."""
        if (video, twin) not in self._distances:
            frames = [self._frames(name) for name in (video, twin)]
            each = [psnr(a[None] / 255, b[None] / 255) for a, b in zip(*frames, strict=True)]
            self._distances[video, twin] = mean_psnr(np.concatenate(each))
            while len(self._distances) > _COMPARED:
                self._distances.popitem(last=False)
        return self._distances[video, twin]

    def _frames(self, video: str) -> UInt8[np.ndarray, "frames height width 3"]:
        storage = self.server.storage
        with storage.making(new_id()) as folder:
            return read_video(storage.fetch(video, "video.mp4", folder))


def _both_done(video: Video, twin: Video) -> bool:
    return video.status == twin.status == "completed" and video.size == twin.size


def _denoising(video: Video) -> str:
    assert video.stage_durations is not None
    return views.duration(video.stage_durations["denoise"])


def data_url(picture: bytes) -> str:
    """A PNG as a page has it."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
