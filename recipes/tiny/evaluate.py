"""Judge the bundled models on held-out scenes: do the videos show what the prompts say?

    python recipes/tiny/evaluate.py t2v
    python recipes/tiny/evaluate.py i2v

64 prompts for combinations that training never showed, each with a seed of its own; dense
and with MagCache, from the same noise. Prints the task score, the distance of MagCache's
videos from the dense ones and, for image to video, of the first frame from the given picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from render import render_scenes

import wanjax
from wanjax.caching.plan import Plan
from wanjax.config.keys import method_of
from wanjax.config.resolve import resolve
from wanjax.tiny.score import Score, score_videos
from wanjax.tiny.world import caption, held_out_prompts, sample_scene

SEED = 30_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("form", choices=("t2v", "i2v"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sheet", type=Path, help="picture of the first videos to write")
    parser.add_argument("--rows", type=int, default=8, help="videos in that picture")
    args = parser.parse_args()
    prompts, images = tasks(args.form, args.count)
    pipe = wanjax.WanPipeline.from_pretrained(f"tiny-{args.form}")
    cached = method_of(resolve([f"tiny-{args.form}", "use_magcache=True"], "plan"))
    results = {}
    for name, cache in (("dense", None), ("magcache", cached)):
        results[name], plan = generate(pipe, prompts, images, cache, args.batch)
        report(name, plan, results[name], prompts, images, results["dense"])
    if args.sheet:
        sheet(results, prompts, args.sheet, args.rows)


def tasks(form: str, count: int) -> tuple[list[tuple[str, int]], np.ndarray | None]:
    """Prompts with seeds and, for image to video, the first frames."""
    if form == "t2v":
        return held_out_prompts(count), None
    rng = np.random.default_rng(SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    return [(caption(s, rng), i) for i, s in enumerate(scenes)], render_scenes(scenes)[:, 0]


def generate(pipe, prompts, images, cache, batch: int) -> tuple[np.ndarray, Plan]:
    frames = []
    for i in range(0, len(prompts), batch):
        texts, seeds = zip(*prompts[i : i + batch], strict=True)
        pictures = None if images is None else [Image.fromarray(x) for x in images[i : i + batch]]
        video = pipe(list(texts), image=pictures, seed=list(seeds), cache=cache)
        frames.append(video.frames)
    return np.concatenate(frames), video.plan


def report(name, plan, videos, prompts, images, dense) -> None:
    score: Score = score_videos(list(videos), [text for text, _ in prompts])
    by = ", ".join(f"{key} {value:.1%}" for key, value in score.by_attribute.items())
    print(f"{name}: attributes right {score.overall:.1%} ({by}); ideal {plan.ideal_speedup:.2f}x")
    if videos is not dense:
        print(f"  PSNR from dense: mean {np.mean(psnr(videos, dense)):.2f} dB")
    if images is not None:
        first = psnr(videos[:, 0], images)
        print(
            f"  first frame from the picture: mean {first.mean():.2f}, least {first.min():.2f} dB"
        )


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per video, over all its pixels."""
    square = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    error = square.reshape(len(a), -1).mean(axis=1)
    return 20 * np.log10(255) - 10 * np.log10(np.maximum(error, 1e-10))


def sheet(
    results: dict[str, np.ndarray], prompts: list[tuple[str, int]], path: Path, rows: int
) -> None:
    """Every fourth frame under its prompt; dense videos on the left, MagCache's on the right."""
    zoom, line, gap = 2, 18, 16
    dense = results["dense"]
    strips = [np.concatenate(list(dense[i, ::4]), axis=1) for i in range(rows)]
    height, width = strips[0].shape[0] * zoom, strips[0].shape[1] * zoom
    picture = Image.new("RGB", (2 * width + gap, rows * (height + line + gap)), "white")
    draw = ImageDraw.Draw(picture)
    for i, (prompt, _) in enumerate(prompts[:rows]):
        top = i * (height + line + gap)
        for column, (name, videos) in enumerate(results.items()):
            left = column * (width + gap)
            draw.text((left, top + 2), f"{name}: {prompt}" if column else prompt, fill="black")
            strip = Image.fromarray(np.concatenate(list(videos[i, ::4]), axis=1))
            picture.paste(
                strip.resize((width, height), Image.Resampling.LANCZOS), (left, top + line)
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
