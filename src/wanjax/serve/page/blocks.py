"""The page itself: its fields, and what happens at each click. The look is `page.css`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import astuple, replace
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from wanjax.serve.errors import ApiError
from wanjax.serve.jobs import AwayError
from wanjax.serve.page import views
from wanjax.serve.page.actions import Actions
from wanjax.serve.page.dials import DENSE, dials_of, method_names
from wanjax.serve.page.form import Form

_HERE = Path(__file__).parent
_LOOK = 0.3  # seconds between two looks at what is being made
_PAGES = 200  # that are kept up to date at once
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_NAMES = {DENSE: "dense (every step computed)"}
_NOTHING = "Say what the video shows, and see it here as it comes about."
_AS_IT_IS = [gr.skip()] * 3  # the ids
_REFUSALS = (ApiError, AwayError)
_INTO_VIEW = (
    "() => { const stage = document.querySelector('#stage'); "
    "if (stage.getBoundingClientRect().top > innerHeight / 2) stage.scrollIntoView(); }"
)


class Page:
    """The components and their events; `blocks` is what Gradio serves."""

    def __init__(self, actions: Actions):
        self.actions = actions
        self._watches: OrderedDict[str, int] = OrderedDict()
        self._numbers = count()
        with gr.Blocks(analytics_enabled=False, title="wanjax", fill_width=True) as self.blocks:
            _html(f"<h1>wanjax</h1><p class='muted'>{self._about()}</p>", elem_id="title")
            with gr.Row(elem_id="work"):
                with gr.Column(elem_id="form"):
                    self._add_form(actions.empty())
                with gr.Column(elem_id="stage"):
                    self._add_stage()
            with gr.Column(elem_id="made"):
                _html("<h2>Made here</h2>")
                self.gallery = _html(elem_id="gallery", js_on_load=_text("gallery.js"))
        with self.blocks:
            self._connect()

    def _about(self) -> str:
        names = " and ".join(self.actions.server.models)
        return f"{names}: a prompt, what it will cost, and the video"

    def _add_form(self, form: Form) -> None:
        server = self.actions.server
        self.model = gr.Dropdown(
            list(server.models), value=form.model, label="Model", visible=len(server.models) > 1
        )
        self.prompt = gr.Textbox(
            form.prompt, label="Prompt", lines=2, max_lines=8, elem_id="prompt",
            placeholder="a red ball moving right", info="Shift+Enter makes it",
        )  # fmt: skip
        takes_picture = any(model.config.task != "t2v" for model in server.models.values())
        self.picture = _html(
            "", html_template=_text("picture.html"), js_on_load=_text("picture.js"),
            fault="", most=server.config.max_upload, visible=takes_picture, elem_id="picture",
        )  # fmt: skip
        names = [(_NAMES.get(name, name), name) for name in method_names()]
        self.method = gr.Dropdown(
            names, value=form.method, label="Method", elem_id="method", filterable=False
        )
        self.dial = gr.Radio(label="The slider sets", elem_id="dial", **_dial(form))
        self.value = gr.Slider(elem_id="value", **_slider(form))
        self.steps = gr.Slider(
            1, server.config.max_steps, form.steps, step=1, label="Steps", elem_id="steps"
        )
        self.plan = _html(elem_id="plan")
        self.fault = _html(elem_id="fault")
        self.make = gr.Button("Make the video", variant="primary", elem_id="make")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.negative = gr.Textbox(form.negative, label="What it should not show", lines=2)
            with gr.Row():
                config = server.model(form.model).config
                size = f"{config.width}x{config.height}"
                self.size = gr.Textbox(form.size, label="Size", placeholder=size, min_width=90)
                self.frames = gr.Textbox(
                    form.frames, label="Frames", placeholder=str(config.num_frames), min_width=90
                )
                self.seed = gr.Textbox(
                    form.seed, label="Seed", placeholder="drawn", min_width=90, elem_id="seed"
                )
            self.others = gr.Textbox(
                form.others, label="Other settings", lines=2, elem_id="others",
                info="key=value, one a line, as on the command line",
                placeholder="guidance_scale=4",
            )  # fmt: skip
        self.shape = gr.Textbox("", visible=False)  # the picture's
        self.fields = [
            self.model, self.prompt, self.picture, self.method, self.dial, self.value, self.steps,
            self.negative, self.size, self.frames, self.seed, self.others,
        ]  # fmt: skip

    def _add_stage(self) -> None:
        with gr.Row(elem_id="pair"):
            self.video = _html(views.stage(None, note=_NOTHING), elem_id="video")
            self.twin = _html(elem_id="twin", js_on_load=_text("twin.js"))
        with gr.Row(elem_id="actions"):
            self.cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
            self.compare = gr.Button("Make its dense twin", visible=False, elem_id="compare")
        self.shown = gr.Textbox("", visible=False)  # ids
        self.other = gr.Textbox("", visible=False)
        self.after = gr.Textbox("", visible=False)  # the last of the gallery's page before

    def _connect(self) -> None:
        watch: dict[str, Any] = {
            "fn": self._watch,
            "inputs": [self.shown, self.other, self.after],
            "outputs": [self.video, self.twin, self.cancel, self.compare, self.gallery],
            "concurrency_limit": None,
            "trigger_mode": "multiple",  # a new one takes the place of one that goes on
            **_QUIET,
        }
        plan: dict[str, Any] = {
            "fn": self._plan,
            "inputs": [self.shape, *self._without_picture()],
            "outputs": [self.plan, self.fault],
            "concurrency_limit": 2,
            **_QUIET,
        }
        ids = [self.shown, self.other, self.after]
        gr.on(
            [self.make.click, self.prompt.submit], self._submit, self.fields, [self.fault, *ids],
            concurrency_limit=4, **_QUIET,
        ).then(None, js=_INTO_VIEW, **_QUIET).then(**watch)  # fmt: skip
        self.compare.click(self._compare, self.shown, [self.fault, *ids], **_QUIET).then(**watch)
        self.cancel.click(self._cancel, ids[:2], self.fault, **_QUIET)
        self.gallery.picked(
            self._pick, self.fields, [self.fault, *ids, self.shape, *self.fields], **_QUIET
        ).then(**plan).then(**watch)
        self.picture.picked(self._look, self.picture, [self.picture, self.shape], **_QUIET).then(
            **plan
        )
        self.method.input(
            self._turn, [self.model, self.method], [self.dial, self.value], **_QUIET
        ).then(**plan)
        self.dial.input(
            self._turn, [self.model, self.method, self.dial], [self.dial, self.value], **_QUIET
        ).then(**plan)
        moved = [self.value.input, self.steps.input, self.value.release, self.steps.release]
        typed = [field.change for field in (self.size, self.frames, self.others, self.model)]
        gr.on([*moved, *typed], trigger_mode="always_last", **plan)
        self.blocks.load(self._begin, None, ids, **_QUIET).then(**plan).then(**watch)

    def _without_picture(self) -> list[Any]:
        return [field for field in self.fields if field is not self.picture]

    async def _watch(
        self, video: str, twin: str, after: str, request: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        """What is shown, until nothing changes any more or the page shows something else."""
        session, number = str(request.session_hash), next(self._numbers)
        self._watches[session] = number
        while len(self._watches) > _PAGES:
            self._watches.popitem(last=False)
        client, told, begun = _client(request), ("", ""), False
        gallery: Any = gr.skip()

        def replaced() -> bool:
            return self._watches.get(session) != number

        while not (replaced() or self.actions.server.told_to_end()):
            try:
                stage = await run_in_threadpool(self.actions.stage, video, twin, client)
                if stage.ended or not begun:
                    gallery = await run_in_threadpool(self.actions.gallery, client, after)
            except AwayError:  # it may come back
                await asyncio.sleep(_LOOK)
                continue
            if replaced():  # while it was looked up
                break
            html = (stage.html, stage.twin_html)
            shown = [new if new != old else gr.skip() for new, old in zip(html, told, strict=True)]
            yield (
                *shown,
                gr.update(visible=not stage.ended),
                gr.update(visible=stage.comparable),
                gallery,
            )
            if stage.ended:
                return
            told, gallery, begun = html, gr.skip(), True
            await asyncio.sleep(_LOOK)
        if replaced():  # Gradio ends by sending the last once more, over what took its place
            yield tuple([gr.skip()] * 5)
        elif self.actions.server.told_to_end():
            note = views.stage(None, note="The server ends. What waits is made when it is back.")
            yield (note, *[gr.skip()] * 4)

    def _plan(self, shape: str, *values: Any) -> tuple[Any, str]:
        model, prompt, *rest = values
        try:
            return self.actions.plan(_form(model, prompt, "", *rest), shape), ""
        except _REFUSALS as error:
            return gr.skip(), _why(error)

    def _submit(self, request: gr.Request, *values: Any) -> tuple[Any, ...]:
        try:
            return "", self.actions.submit(_form(*values), _client(request)).id, "", ""
        except _REFUSALS as error:
            return _why(error), *_AS_IT_IS

    def _compare(self, video: str, request: gr.Request) -> tuple[Any, ...]:
        try:
            return "", video, self.actions.twin(video, _client(request)).id, ""
        except _REFUSALS as error:
            return _why(error), *_AS_IT_IS

    def _cancel(self, video: str, twin: str, request: gr.Request) -> str:
        """What is being made: the twin, if there is one. The watch tells the rest."""
        try:
            self.actions.cancel(twin or video, _client(request))
        except _REFUSALS as error:
            return _why(error)
        return ""

    def _pick(self, request: gr.Request, event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        """A button of the gallery."""
        do, video = getattr(event, "do", ""), str(getattr(event, "id", ""))
        client = _client(request)
        kept = [gr.skip()] * (1 + len(values))
        try:
            if do == "delete":
                self.actions.cancel(video, client)
                return "", *_AS_IT_IS, *kept
            if do == "page":
                return "", gr.skip(), gr.skip(), video, *kept
            if do == "show":
                return "", *self.actions.pair(video, client), gr.skip(), *kept
            form = self.actions.again(video, client)
            shape = self.actions.look(form.picture)
            return "", *_AS_IT_IS, shape, *_filled(form)
        except _REFUSALS as error:
            return _why(error), *_AS_IT_IS, *kept

    def _look(self, picture: str) -> tuple[Any, ...]:
        try:
            return gr.update(fault=""), self.actions.look(picture)
        except _REFUSALS as error:
            return gr.update(value="", fault=_why(error)), ""

    def _turn(self, model: str, method: str, dial: str | None = None) -> tuple[Any, Any]:
        """The slider of a method, as the server has it set or as it begins."""
        form = self.actions.turned(model, method, dial)
        return gr.update(**_dial(form)), gr.update(**_slider(form))

    def _begin(self, request: gr.Request) -> tuple[str, str, str]:
        """A page that is opened anew goes on with what is being made."""
        return self.actions.unfinished(_client(request)), "", ""


def _why(error: Exception) -> str:
    away = "the database does not answer: try again"
    return views.fault(error.message if isinstance(error, ApiError) else away)


def _client(request: gr.Request) -> str:
    """Who asks, as the gate has found."""
    return str(request.request.scope["state"]["client"])


def _form(*values: Any) -> Form:
    """Of the fields' values; an empty one may come as None."""
    form = Form(*values)
    texts = ("prompt", "picture", "negative", "size", "frames", "seed", "others")
    return replace(
        form,
        **{name: getattr(form, name) or "" for name in texts},
        steps=int(form.steps),
        value=float(form.value or 0),
    )


def _filled(form: Form) -> list[Any]:
    """The form's values for the fields."""
    values: list[Any] = [gr.update(value=value) for value in astuple(form)]
    names = list(Form.__dataclass_fields__)
    values[names.index("dial")] = gr.update(**_dial(form))
    values[names.index("value")] = gr.update(**_slider(form))
    return values


def _dial(form: Form) -> dict[str, Any]:
    dials = dials_of(form.method)
    choices = [(dial.label, dial.key) for dial in dials]
    return {"choices": choices, "value": form.dial, "visible": len(dials) > 1}


def _slider(form: Form) -> dict[str, Any]:
    for dial in dials_of(form.method):
        if dial.key == form.dial:
            return {
                "minimum": dial.low,
                "maximum": max(dial.high, form.value),
                "step": dial.step,
                "value": form.value,
                "label": dial.label.capitalize(),
                "visible": True,
            }
    return {"value": 0, "visible": False}


def _html(value: str = "", **about: Any) -> gr.HTML:
    """Ours alone, without Gradio's look of texts."""
    return gr.HTML(value, apply_default_css=False, **about)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
