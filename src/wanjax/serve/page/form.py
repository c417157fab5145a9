"""The page's form: its fields as a request of the API, and a made video as fields again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wanjax.config.keys import Config, keys
from wanjax.serve.errors import ApiError
from wanjax.serve.page.dials import DENSE, Dial, chosen, dials_of, settings
from wanjax.serve.requests import own_keys
from wanjax.settings import as_written

_HERE = ("prompt", "negative_prompt", "seed", "width", "height", "num_frames",
         "num_inference_steps", "fit_image")  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What stands in the fields, text where a number may be left out.

    `dial` is the key that the slider sets, `value` where it stands; `others` has a `key=value`
    a line. `picture` is a data URL, or empty.
    """

    model: str
    prompt: str
    picture: str
    method: str
    dial: str | None
    value: float
    steps: int
    negative: str
    size: str
    frames: str
    seed: str
    others: str

    def request(self, config: Config) -> dict[str, Any]:
        """The fields of a request to a server of `config`. What they may be, the server says."""
        body: dict[str, Any] = {"model": self.model, "prompt": self.prompt, "cache": self.method}
        dial = next((d for d in dials_of(self.method) if d.key == self.dial), None)
        if dial is not None:
            body |= settings(dial, self.value, config)
        if self.steps != config.num_inference_steps:
            body["num_inference_steps"] = self.steps
        if self.negative != config.negative_prompt:
            body["negative_prompt"] = self.negative
        given = {"size": self.size, "num_frames": self.frames, "seed": self.seed}
        body |= {name: text.strip() for name, text in given.items() if text.strip()}
        if self.picture:
            body["input_reference"] = {"image_url": self.picture}
        for name, value in _lines(self.others).items():
            if name in body:
                raise ApiError(400, f"{name} has a field of its own above", param=name)
            body[name] = value
        return body


def empty(model: str, config: Config) -> Form:
    """What a page begins with: the server's own values."""
    method, dial, value = chosen(config)
    return Form(
        model=model,
        prompt=config.prompt,
        picture="",
        method=method,
        dial=dial.key if dial else None,
        value=value,
        steps=config.num_inference_steps,
        negative=config.negative_prompt,
        size="",
        frames="",
        seed="",
        others="",
    )


def refilled(model: str, config: Config, record: Mapping[str, Any], picture: str) -> Form:
    """The fields with which a server of `config` makes the video of a record again."""
    known = keys()
    made = {name: value for name, value in record["config"].items() if name in known}
    made_by = _method(made)
    dial = _dial(made_by, made)
    asked = {
        name: value
        for name, value in made.items()
        if name in own_keys() and as_written(value) != as_written(getattr(config, name))
    }
    covered = {*_HERE, dial.key if dial else ""} | {n for n in asked if n.startswith("use_")}
    lines = [f"{n}={as_written(v)}" for n, v in asked.items() if n not in covered and v is not None]
    sized = {"width", "height"} & asked.keys()
    return Form(
        model=model,
        prompt=made["prompt"],
        picture=picture,
        method=made_by,
        dial=dial.key if dial else None,
        value=float(made[dial.key]) if dial else 0.0,
        steps=made["num_inference_steps"],
        negative=made["negative_prompt"],
        size=f"{made['width']}x{made['height']}" if sized else "",
        frames=str(made["num_frames"]) if "num_frames" in asked else "",
        seed=str(made["seed"]),
        others="\n".join(lines),
    )


def _method(made: Mapping[str, Any]) -> str:
    on = [name.removeprefix("use_") for name in own_keys() if name.startswith("use_")]
    return next((name for name in on if made.get(f"use_{name}")), DENSE)


def _dial(method: str, made: Mapping[str, Any]) -> Dial | None:
    return next((d for d in dials_of(method) if made.get(d.key) is not None), None)


def _lines(text: str) -> dict[str, str]:
    """Raises `ApiError` for a line that is no `key=value`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if not line.strip():
            continue
        if not equals or not name:
            raise ApiError(400, f"other settings: {line.strip()!r}: write one key=value a line")
        if name in found:
            raise ApiError(400, f"{name} is given twice", param=name)
        found[name] = value
    return found
