"""The captioned world on which the bundled tiny models are trained: words and scenes.

A scene is one flat, saturated shape which moves, grows or shrinks over a plain
background. `sample_scene` draws one, `caption` describes it in English, `parse`
reads the attributes back from any prompt. `recipes/tiny/render.py` draws the pixels,
`wanjax.tiny.score` judges generated ones.

One combination of colour, shape and motion in six is held out: it never occurs in
training, so a model that renders it right has composed what it learnt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float

Synonyms = dict[str, tuple[str, ...]]

COLORS: Synonyms = {
    "red": ("red", "scarlet", "crimson"),
    "green": ("green", "emerald", "lime"),
    "blue": ("blue", "cobalt", "ultramarine"),
    "yellow": ("yellow", "golden", "lemon"),
    "magenta": ("magenta", "purple", "violet", "fuchsia"),
    "cyan": ("cyan", "turquoise", "aqua", "teal"),
}
# Hues of 0, 120, 240, 60, 300 and 180 degrees: as far apart as six hues can be.
COLOR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (228, 36, 36),
    "green": (30, 190, 30),
    "blue": (44, 44, 236),
    "yellow": (236, 236, 28),
    "magenta": (212, 36, 212),
    "cyan": (28, 208, 208),
}
SHAPES: Synonyms = {
    "ball": ("ball", "circle", "disc", "disk", "sphere"),
    "square": ("square", "box", "block", "cube"),
    "triangle": ("triangle", "pyramid", "wedge"),
    "cross": ("cross", "plus sign", "plus"),
}

_DIRECTIONS: Synonyms = {
    "left": ("left", "to the left", "leftwards", "leftward"),
    "right": ("right", "to the right", "rightwards", "rightward"),
    "up": ("up", "upwards", "upward", "to the top"),
    "down": ("down", "downwards", "downward", "to the bottom"),
}
_MOVING = ("moving", "going", "sliding", "drifting", "travelling", "traveling", "floating")
_MOVES = ("moves", "goes", "slides", "drifts", "travels", "floats")


def _combine(verbs: tuple[str, ...], objects: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{verb} {noun}" for verb, noun in product(verbs, objects))


# "a ball MOVING RIGHT" and "a ball MOVES RIGHT"
_PARTICIPLES: Synonyms = {f"moving {d}": _combine(_MOVING, s) for d, s in _DIRECTIONS.items()}
_PARTICIPLES |= {
    "growing": ("growing", "getting bigger", "getting larger", "expanding"),
    "shrinking": ("shrinking", "getting smaller", "contracting"),
}
_FINITES: Synonyms = {f"moving {d}": _combine(_MOVES, s) for d, s in _DIRECTIONS.items()}
_FINITES |= {
    "growing": ("grows", "gets bigger", "gets larger", "expands"),
    "shrinking": ("shrinks", "gets smaller", "contracts"),
}
# A prompt may use a verb that is not listed: all directions but a bare "left", "right", "up" or
# "down" (which also tell places) count without one.
_BARE: Synonyms = {f"moving {d}": synonyms[1:] for d, synonyms in _DIRECTIONS.items()}
MOTIONS: Synonyms = {m: _PARTICIPLES[m] + _FINITES[m] + _BARE.get(m, ()) for m in _PARTICIPLES}

_SHADES: Synonyms = {
    "dark": ("dark", "black", "dim"),
    "grey": ("grey", "gray"),
    "light": ("light", "white", "bright", "pale"),
}
_NOUNS = ("background", "backdrop")
_BACKDROPS: Synonyms = {b: _combine(shades, _NOUNS) for b, shades in _SHADES.items()}
BACKGROUNDS: Synonyms = {
    b: _BACKDROPS[b] + _combine(("background is", "backdrop is"), _SHADES[b]) for b in _SHADES
}

# RGB at the top and at the bottom of the frame, linear in between.
BACKGROUND_RGB: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "dark": ((20, 20, 28), (40, 40, 52)),
    "grey": ((120, 120, 122), (140, 140, 142)),
    "light": ((225, 225, 227), (240, 240, 242)),
}

ATTRIBUTES: dict[str, Synonyms] = {
    "color": COLORS,
    "shape": SHAPES,
    "motion": MOTIONS,
    "background": BACKGROUNDS,
}

# Change over the clip in (x, y, log2 radius), in units of the scene's speed; y points down.
VELOCITY: dict[str, tuple[int, int, int]] = {
    "moving left": (-1, 0, 0),
    "moving right": (1, 0, 0),
    "moving up": (0, -1, 0),
    "moving down": (0, 1, 0),
    "growing": (0, 0, 1),
    "shrinking": (0, 0, -1),
}
# No shape reaches further from its centre than EXTENT radii along x or y.
EXTENT = 1.1
MARGIN = 1.5 / 64  # least distance of the shape from the frame's border

_SIZE = (9 / 64, 14 / 64)
_RESIZED_SIZE = (11 / 64, 14 / 64)  # at mid-clip: at its smallest the shape stays readable
_TRAVEL = (20 / 64, 34 / 64)
_DOUBLINGS = (0.85, 1.15)  # the radius changes by a factor of 1.8 to 2.2


@dataclass(frozen=True)
class Scene:
    """One clip of the world. Lengths are fractions of the frame's side; y points down.

    `x`, `y` and `size` are the shape's centre and radius at the middle of the clip, `speed`
    the distance travelled over the clip or, if it grows or shrinks, the doublings of its
    radius.
    """

    color: str
    shape: str
    motion: str
    background: str
    x: float
    y: float
    size: float
    speed: float

    def trajectory(self, time: Float[np.ndarray, " frames"]) -> Float[np.ndarray, "3 frames"]:
        """Centre x, centre y and radius at each `time`, 0 at the first frame, 1 at the last."""
        dx, dy, doublings = (v * self.speed * (time - 0.5) for v in VELOCITY[self.motion])
        return np.stack([self.x + dx, self.y + dy, self.size * 2.0**doublings])


def is_held_out(color: str, shape: str, motion: str) -> bool:
    """Whether training never shows this combination.

    24 of the 144 combinations are held out, and evenly: each pair of colour and shape and
    each pair of shape and motion loses one combination, each pair of colour and motion
    at most one. All pairs of values thus occur in training.
    """
    return motion == _held_out_motion(color, shape)


def _held_out_motion(color: str, shape: str) -> str:
    motions = list(MOTIONS)
    return motions[(list(COLORS).index(color) + list(SHAPES).index(shape)) % len(motions)]


def sample_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Draw a scene from the training combinations, or from the held-out ones only."""
    while True:
        color, shape, motion = (_choose(rng, list(names)) for names in (COLORS, SHAPES, MOTIONS))
        if is_held_out(color, shape, motion) == held_out:
            return place_scene(rng, color, shape, motion, _choose(rng, list(BACKGROUNDS)))


def place_scene(
    rng: np.random.Generator, color: str, shape: str, motion: str, background: str
) -> Scene:
    """Draw size, speed and position so that the shape stays inside the frame all along."""
    dx, dy, doubling = np.abs(VELOCITY[motion])
    if doubling:
        size, speed = rng.uniform(*_RESIZED_SIZE), rng.uniform(*_DOUBLINGS)
        reach = EXTENT * size * 2 ** (speed / 2) + MARGIN
    else:
        size = rng.uniform(*_SIZE)
        reach = EXTENT * size + MARGIN
        speed = rng.uniform(_TRAVEL[0], min(_TRAVEL[1], 1 - 2 * reach))
    x, y = (rng.uniform(low, 1 - low) for low in (reach + dx * speed / 2, reach + dy * speed / 2))
    return Scene(color, shape, motion, background, float(x), float(y), float(size), float(speed))


# Size and speed are told now and then, and only where they are clear.
_SMALL, _LARGE = 10.5 / 64, 12.5 / 64
_SLOW, _FAST = 23 / 64, 28 / 64

_PATTERNS = (
    "{thing} {moving}{on}",
    "{thing} is {moving}{on}",
    "{thing} {moves}{on}",
    "a video of {thing} {moving}{on}",
    "there is {thing} {moving}{on}",
    "{thing} that {moves}{on}",
)
_FRONTED_PATTERNS = (
    "on {backdrop} there is {thing} {moving}",
    "on {backdrop}, {thing} {moves}",
    "{thing} {moving}, the background is {shade}",
)


def caption(scene: Scene, rng: np.random.Generator, *, background_rate: float = 0.8) -> str:
    """Describe `scene` in one English sentence without a full stop.

    The canonical word of an attribute is drawn about half the time, else a synonym.
    `background_rate` is the share of captions which name the background.
    """
    with_background = rng.random() < background_rate
    patterns = _PATTERNS + (_FRONTED_PATTERNS if with_background else ())
    backdrop = _with_article(_synonym(rng, _BACKDROPS[scene.background]))
    adverb = _adverb(scene, rng)
    noun = f"{_synonym(rng, COLORS[scene.color])} {_synonym(rng, SHAPES[scene.shape])}"
    return _choose(rng, patterns).format(
        thing=_with_article(_adjective(scene, rng) + noun),
        moving=adverb + _synonym(rng, _PARTICIPLES[scene.motion]),
        moves=adverb + _synonym(rng, _FINITES[scene.motion]),
        on=f" on {backdrop}" if with_background else "",
        backdrop=backdrop,
        shade=_synonym(rng, _SHADES[scene.background]),
    )


def parse(prompt: str) -> dict[str, str]:
    """The canonical value of each attribute that `prompt` names, absent if it names none.

    Of several values of one attribute the first counts, of synonyms that begin at the same
    word the longest.
    """
    text = " ".join(re.findall(r"[a-z0-9]+", prompt.lower()))
    found = {attribute: pattern.search(text) for attribute, pattern in _READERS.items()}
    return {a: _CANONICAL[a][match.group()] for a, match in found.items() if match}


def held_out_prompts(count: int = 64, *, seed: int = 0) -> list[tuple[str, int]]:
    """`count` prompts for held-out combinations, each with the noise seed to use for it.

    The values of every attribute take turns, so that any `count` covers them evenly; the
    first 72 have different combinations of all four attributes.
    """
    rng = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        # The shift after each round of colours brings every pair of values about.
        color = list(COLORS)[index % 6]
        shape = list(SHAPES)[(index + index // 6) % 4]
        background = list(BACKGROUNDS)[(index + index // 6 + index // 24) % 3]
        scene = place_scene(rng, color, shape, _held_out_motion(color, shape), background)
        prompts.append((caption(scene, rng, background_rate=1.0), seed + index))
    return prompts


def _adjective(scene: Scene, rng: np.random.Generator) -> str:
    resizes = VELOCITY[scene.motion][2] != 0
    if resizes or _SMALL <= scene.size <= _LARGE or rng.random() < 0.5:
        return ""
    return _choose(rng, ("small ", "little ") if scene.size < _SMALL else ("large ", "big "))


def _adverb(scene: Scene, rng: np.random.Generator) -> str:
    resizes = VELOCITY[scene.motion][2] != 0
    if resizes or _SLOW <= scene.speed <= _FAST or rng.random() < 0.5:
        return ""
    return "slowly " if scene.speed < _SLOW else _choose(rng, ("quickly ", "swiftly "))


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _choose(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _synonym(rng: np.random.Generator, synonyms: tuple[str, ...]) -> str:
    return synonyms[0] if rng.random() < 0.5 else _choose(rng, synonyms)


_CANONICAL = {
    attribute: {s: value for value, synonyms in values.items() for s in synonyms}
    for attribute, values in ATTRIBUTES.items()
}
_READERS = {
    attribute: re.compile(rf"\b(?:{'|'.join(sorted(words, key=len, reverse=True))})\b")
    for attribute, words in _CANONICAL.items()
}
