"""What the page shows, as HTML: plans, a video as it is made and when it is there, the gallery."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from wanjax.caching.strips import COMPUTED, PARTIAL, SKIPPED, SWITCH, UNDECIDED
from wanjax.planning.run import Run
from wanjax.serve.schemas import Video

_MARKS = {
    COMPUTED: ("computed", "computed"),
    SKIPPED: ("skipped", "skipped"),
    PARTIAL: ("partial", "one branch computed"),
    UNDECIDED: ("undecided", "decided during the run"),
}
_QUALITY = 80  # of a preview


def plan(run: Run, seconds: float | None, waiting: int) -> str:
    """A plan before its video is asked for."""
    facts = [run.plan.summary()]
    if run.plan.prediction is not None and run.plan.prediction.psnr is not None:
        facts.append(f"about {run.plan.prediction.psnr:.0f} dB from dense before compression")
    size = f"{run.config.width}x{run.config.height}, {run.config.num_frames} frames"
    if seconds is None:
        takes = "how long it takes is known after the first video"
    else:
        behind = f", after {waiting} that wait" if waiting else ""
        takes = f"takes about {duration(seconds)}{behind}"
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in run.plan.warnings)
    return (
        f"{strip(run.plan.strip())}<p id='takes'>{escape(takes)}</p>"
        f"<p class='muted'>{escape('; '.join(facts))}; {size}</p>{notes}{_key(run.plan.strip())}"
    )


def strip(marks: str, done: int = -1) -> str:
    """A box a step; the first `done` have been made (-1: nothing is being made)."""
    cells, step = [], 0
    for mark in marks:
        if mark == SWITCH:
            cells.append("<i class='switch' title='the low-noise expert from here on'></i>")
            continue
        kind, meaning = _MARKS[mark]
        state = " done" if 0 <= step < done else ""
        cells.append(f"<i class='{kind}{state}' title='step {step}: {meaning}'></i>")
        step += 1
    text = f"Steps in turn: {marks} (# computed, . skipped)"
    live = " live" if done >= 0 else ""
    return f"<div class='strip{live}' role='img' aria-label='{text}'>{''.join(cells)}</div>"


def _key(marks: str) -> str:
    """What the boxes of a plan mean."""
    used = [meaning for mark, meaning in _MARKS.items() if mark in marks]
    parts = [f"<span><i class='{kind}'></i>{text}</span>" for kind, text in used]
    return f"<p class='key muted'>{''.join(parts)}</p>"


def fault(message: str) -> str:
    """What is wrong with the form, as the configuration says it; nothing where nothing is."""
    return f"<p class='fault' role='alert'>{escape(message)}</p>" if message else ""


def stage(video: Video | None, preview: Image.Image | None = None, note: str = "") -> str:
    """A video: where it waits, how far it is, or itself."""
    if video is None:
        return f"<div class='blank'>{escape(note)}</div>" if note else ""
    apart = f"<span class='apart'>{escape(note)}</span>" if note else ""
    about = f"<figcaption>{apart}<b>{escape(video.method)}</b> {_facts(video)}</figcaption>"
    return f"<figure>{_screen(video, preview)}{_below(video)}{about}</figure>"


def _screen(video: Video, preview: Image.Image | None) -> str:
    width, height = video.size.split("x")
    shape = f"style='aspect-ratio:{width}/{height};--w:{width}'"
    if video.status == "completed":
        return (
            f"<video class='screen' {shape} src='{address(video.id)}' autoplay muted loop controls "
            f"playsinline aria-label='{_text(video.prompt)}'></video>"
        )
    if video.status == "failed":
        message = video.error.message if video.error else "the video failed"
        return f"<div class='screen' {shape}><p class='fault'>{escape(message)}</p></div>"
    if preview is not None:
        picture = io.BytesIO()
        preview.save(picture, "WEBP", quality=_QUALITY)
        data = base64.b64encode(picture.getvalue()).decode()
        return (
            f"<img class='screen' {shape} alt='what it looks like so far' "
            f"src='data:image/webp;base64,{data}'>"
        )
    return f"<div class='screen' {shape}></div>"


def _below(video: Video) -> str:
    """The progress of one that is not there yet; links to one that is."""
    if video.status == "completed":
        return (
            f"{strip(video.plan)}<p class='links'><a href='{address(video.id)}' "
            f"download='{video.id}.mp4'>video</a> <a href='{address(video.id, 'record')}' "
            f"download='{video.id}.json'>record</a></p>"
        )
    if video.status == "failed":
        return ""
    left = "" if video.eta_seconds is None else f", {duration(video.eta_seconds)} left"
    if video.status == "queued":
        before = video.queue_position or 0
        state = f"waits, {before} before it{left}"
    else:
        state = f"step {video.steps_done} of {video.steps}{left}"
    return (
        f"<progress max='100' value='{video.progress}' aria-label='progress'></progress>"
        f"<p class='state' role='status'>{state}</p>{strip(video.plan, video.steps_done)}"
    )


def gallery(videos: Sequence[Video], newest: bool = True, has_more: bool = False) -> str:
    """Videos, the newest first; what can be done with each is told by `data-do`."""
    if not videos and newest:
        return "<p class='muted'>Nothing has been made yet.</p>"
    pages = "" if newest else _button("page", "Newest", "")
    pages += _button("page", "Older", videos[-1].id) if has_more else ""
    cards = "".join(_card(video) for video in videos)
    return f"<ul class='cards'>{cards}</ul><p class='buttons'>{pages}</p>"


def _button(what: str, label: str, video: str, about: str = "") -> str:
    aria = f"aria-label='{label}: {_text(about)}'" if about else ""
    return f"<button type='button' data-do='{what}' data-id='{video}' {aria}>{label}</button>"


def _card(video: Video) -> str:
    def button(what: str, label: str) -> str:
        return _button(what, label, video.id, video.prompt)

    if video.status == "completed":
        picture = (
            f"<img loading='lazy' alt='' src='{address(video.id, 'thumbnail')}' "
            f"style='aspect-ratio:{video.size.replace('x', '/')}'>"
        )
        buttons = button("show", "Show") + button("again", "Run again") + button("delete", "Delete")
    else:
        state = {"queued": "waits", "in_progress": "is made", "failed": "failed"}[video.status]
        picture = f"<div class='none'>{state}</div>"
        buttons = button("show", "Show") + button("delete", "Delete")
    return (
        f"<li>{picture}<p class='prompt'>{escape(video.prompt)}</p>{strip(video.plan)}"
        f"<p class='muted'>{escape(video.method)} {_facts(video)}</p>"
        f"<p class='buttons'>{buttons}</p></li>"
    )


def _facts(video: Video) -> str:
    facts = []
    if video.inference_time_s is not None:
        facts.append(duration(video.inference_time_s))
    if video.ideal_speedup > 1:
        facts.append(f"ideal {video.ideal_speedup:.2f}x")
    facts += [f"{video.size}, {video.num_frames} frames", f"seed {video.seed}"]
    return escape("; ".join(facts))


def address(video: str, variant: str = "video") -> str:
    """Of the API, as the page sees it: also behind a proxy that serves both under a path."""
    return f"../v1/videos/{video}/content?variant={variant}"


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _text(text: str) -> str:
    return escape(text[:200], quote=True)
