"""Judge the bundled models on held-out scenes: do the videos show what the prompts say?

    python recipes/tiny/evaluate.py t2v
    python recipes/tiny/evaluate.py i2v

64 prompts for combinations that training never showed, each with a seed of its own; dense
and with MagCache, from the same noise. Prints the task score, the distance of MagCache's
videos from the dense ones and, for image to video, of the first frame from the given picture.
The shapes' overlap is that with the outline the prompt names; the ceiling of both is what the
VAE makes of drawn clips of the same scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from render import render_scenes

import wanjax
from wanjax.caching.plan import Plan
from wanjax.config.keys import method_of
from wanjax.config.resolve import resolve
from wanjax.tiny.score import Score, mask_overlap, score_videos, shape_overlap
from wanjax.tiny.world import Scene, caption, held_out_prompts, parse, place_scene, sample_scene

SEED = 30_000
Clips = UInt8[np.ndarray, "clips frames h w 3"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("form", choices=("t2v", "i2v"))
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sheet", type=Path, help="picture of the first videos to write")
    parser.add_argument("--rows", type=int, default=8, help="videos in that picture")
    parser.add_argument("--model", type=Path, help="folder, if not the bundled model's")
    parser.add_argument("--curve", type=Path, help="its calibration, likewise")
    args = parser.parse_args()
    prompts, scenes = tasks(args.form, args.count)
    preset, model, curve = f"tiny-{args.form}", {}, []
    if args.model:
        model, curve = {"model": str(args.model)}, [f"mag_ratios_base={args.curve}"]
    pipe = wanjax.WanPipeline.from_pretrained(preset, **model)
    cached = method_of(resolve([preset, "use_magcache=True", *curve], "plan"))
    texts, truth = [text for text, _ in prompts], render_scenes(scenes)
    of_truth = round_trip(pipe, truth, args.batch)
    print(f"drawn clips: {shapes(truth, texts)}")
    print(f"  through the VAE: {shapes(of_truth, texts, truth)}, {psnr(of_truth, truth)}")
    images = truth[:, 0] if args.form == "i2v" else None
    results = {}
    for name, cache in (("dense", None), ("magcache", cached)):
        results[name], plan = generate(pipe, prompts, images, cache, args.batch)
        report(name, plan, results[name], texts, results["dense"])
        if images is not None:
            print(f"  first frame from the picture: {psnr(results[name][:, 0], images)}")
            print(f"  against the drawn clips: {shapes(results[name], texts, truth)}")
    if args.sheet:
        sheet(results, prompts, args.sheet, args.rows)


def tasks(form: str, count: int) -> tuple[list[tuple[str, int]], list[Scene]]:
    """Prompts with seeds, and scenes: for image to video those of which the prompts tell."""
    rng = np.random.default_rng(SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(count)]
    texts = [caption(s, rng) for s in scenes]
    if form == "t2v":
        prompts = held_out_prompts(count)
        return prompts, [alike(text, rng) for text, _ in prompts]
    return [(text, i) for i, text in enumerate(texts)], scenes


def alike(prompt: str, rng: np.random.Generator) -> Scene:
    """A scene with all that `prompt` names."""
    return place_scene(rng, **parse(prompt))


def round_trip(pipe, clips: Clips, batch: int) -> Clips:
    """What the VAE makes of clips."""
    through = nnx.jit(lambda vae, x: vae.decode(vae.encode(x.astype(jnp.float32) / 127.5 - 1)))
    parts = [clips[i : i + batch] for i in range(0, len(clips), batch)]
    decoded = np.concatenate([np.asarray(through(pipe.components.vae, part)) for part in parts])
    return np.round((decoded + 1) * 127.5).astype(np.uint8)


def shapes(videos: Clips, texts: list[str], truth: Clips | None = None) -> str:
    """How well the shapes have their outlines and, of the same scenes, cover the true ones."""
    outline = np.mean([shape_overlap(v, t) for v, t in zip(videos, texts, strict=True)])
    told = f"shapes' overlap with their outlines {outline:.3f}"
    if truth is None:
        return told
    place = np.mean([mask_overlap(v, t) for v, t in zip(videos, truth, strict=True)])
    return f"{told}, with the drawn ones {place:.3f}"


def generate(pipe, prompts, images, cache, batch: int) -> tuple[np.ndarray, Plan]:
    frames = []
    for i in range(0, len(prompts), batch):
        texts, seeds = zip(*prompts[i : i + batch], strict=True)
        pictures = None if images is None else [Image.fromarray(x) for x in images[i : i + batch]]
        video = pipe(list(texts), image=pictures, seed=list(seeds), cache=cache)
        frames.append(video.frames)
    return np.concatenate(frames), video.plan


def report(name: str, plan: Plan, videos: Clips, texts: list[str], dense: Clips) -> None:
    score: Score = score_videos(list(videos), texts)
    by = ", ".join(f"{key} {value:.1%}" for key, value in score.by_attribute.items())
    print(f"{name}: attributes right {score.overall:.1%} ({by}); ideal {plan.ideal_speedup:.2f}x")
    print(f"  {shapes(videos, texts)}")
    if videos is not dense:
        print(f"  from dense: {psnr(videos, dense)}")


def psnr(a: np.ndarray, b: np.ndarray) -> str:
    """Mean and least over the videos, of all pixels of each."""
    square = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    error = square.reshape(len(a), -1).mean(axis=1)
    each = 20 * np.log10(255) - 10 * np.log10(np.maximum(error, 1e-10))
    return f"PSNR mean {each.mean():.2f}, least {each.min():.2f} dB"


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
