"""The keys of a run, of all commands but `serve`: type, default, allowed values, help."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from wanjax.parallel.launch import HEARTBEAT
from wanjax.settings import setting

LAST_SEED = 2**32 - 1
# parts of a model that have a key of their own
PARTS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder", "tokenizer")
MAX_SIDE = 16_368  # the most that H.264 and WebP can have, in multiples of 16

_COMPUTING = ("generate", "calibrate", "compare", "benchmark", "serve")  # in several processes too


def random_seed() -> int:
    """One of all seeds; the record says which."""
    return secrets.randbelow(LAST_SEED + 1)


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """Those of all commands but `serve`."""

    preset: str | None = setting(
        None, "preset that the values start from; see `wanjax presets`", group="Model"
    )
    model: str | None = setting(
        None,
        "checkpoint: folder in diffusers' or the authors' layout, Hub id, or file of a transformer",
        also=("checkpoint", "ckpt", "ckpt_dir", "model_path", "model_id", "path"),
        path=True,
    )
    revision: str | None = setting(
        None, "commit, tag or branch of a model on the Hub; null: the newest state"
    )
    task: Literal["t2v", "i2v", "ti2v"] = setting(
        "t2v", "text or image to video, or a model of both (ti2v: by whether there is an image)"
    )

    transformer: str | None = setting(
        None,
        "file or folder of the transformer, of two experts the high-noise one's; null: the model's",
        also=("unet", "diffusion_model", "unet_name", "high_noise", "dit_path"),
        path=True,
    )
    transformer_2: str | None = setting(
        None,
        "file or folder of the low-noise expert; null: the model's",
        also=("low_noise", "unet_low"),
        path=True,
    )
    vae: str | None = setting(
        None,
        "file or folder of the VAE; null: the model's",
        also=("vae_path", "vae_name"),
        path=True,
    )
    text_encoder: str | None = setting(
        None,
        "file or folder of the UMT5 encoder; null: the model's",
        also=("clip", "clip_name", "t5", "t5_path", "umt5"),
        path=True,
    )
    image_encoder: str | None = setting(
        None,
        "file or folder of CLIP, of Wan 2.1's image to video; null: the model's",
        also=("clip_vision",),
        path=True,
    )
    tokenizer: str | None = setting(
        None,
        "folder of UMT5's tokenizer.json or spiece.model; null: the text encoder's, or the model's",
        also=("tokenizer_path",),
        path=True,
    )

    lora: str | None = setting(
        None,
        "LoRAs as FILE[:STRENGTH], with commas between, merged into the weights; "
        "FILE:STRENGTH:live: kept apart from them, so that the strength can change",
        also=("loras", "lora_path", "lora_weights", "adapter"),
    )
    lora_high: str | None = setting(None, "LoRAs of the high-noise expert alone")
    lora_low: str | None = setting(None, "LoRAs of the low-noise expert alone")

    prompt: str = setting(
        "",
        "what the video shows",
        group="Prompt and picture",
        also=("text", "caption"),
        from_file=True,
    )
    negative_prompt: str = setting(
        "",
        "what it should not show; used where guidance acts",
        also=("negative", "neg_prompt", "n_prompt", "sample_neg_prompt"),
        from_file=True,
    )
    image: str | None = setting(
        None,
        "first frame, an image file (image to video); example:red-ball is at hand",
        also=("picture", "photo", "first_image", "first_frame", "init_image", "input_image"),
        path=True,
    )
    last_image: str | None = setting(
        None,
        "last frame, where the model takes one",
        also=("last_frame", "end_image"),
        path=True,
    )
    fit_image: bool = setting(
        True,
        "size from the image's own aspect ratio, unless height or width is given",
        also=("crop", "aspect_ratio"),
    )
    seed: int = setting(
        0,
        "of the starting noise",
        low=0,
        high=LAST_SEED,
        also=("base_seed", "random_seed", "noise_seed", "generator"),
        drawn={"random": random_seed},
    )
    prompts: str | None = setting(
        None,
        "text file with one prompt a line (image to video: `image.png | prompt`)",
        commands=("generate", "calibrate", "compare"),
        also=("prompt_file", "prompt_list", "batch"),
        kept=False,
        path=True,
    )
    seeds: tuple[int, ...] = setting(
        (0,),
        "of the starting noise, each with every prompt; left out: seed",
        low=0,
        high=LAST_SEED,
        commands=("generate", "calibrate", "compare"),
        also=("num_videos", "num_videos_per_prompt", "batch_size"),
        kept=False,
    )

    output: str | None = setting(
        None,
        "file to write (generate: .mp4, .webm, .webp or .gif, or NAME/ for a folder of frames, "
        "with a .json record beside it; calibrate, benchmark: .json; compare: a folder)",
        group="Output",
        also=("out", "output_path", "save_file", "save_path", "file", "filename"),
        path=True,
    )
    overwrite: bool = setting(
        False,
        "replace what has the output's name already; else a number is added to the name",
        commands=("generate", "calibrate", "benchmark"),
        also=("force", "replace", "clobber"),
        kept=False,
    )
    quiet: bool = setting(
        False,
        "say nothing but warnings and errors",
        commands=("generate",),
        also=("silent", "no_progress"),
        kept=False,
    )
    verbose: bool = setting(
        False,
        "say each step, what was compiled, and how a failure came about",
        commands=("generate",),
        also=("debug", "log_level"),
        kept=False,
    )
    video_quality: Literal["standard", "high", "lossless"] = setting(
        "standard",
        "plays everywhere, with the colours at half the resolution; high: the colours whole; "
        "lossless: every pixel (.webm, .webp)",
        commands=("generate", "plan"),
        also=("quality", "crf", "bitrate"),
    )

    height: int = setting(
        480,
        "frame height in pixels",
        low=16,
        high=MAX_SIDE,
        grid=(16, 0),
        group="Size",
        also=("size", "resolution", "h"),
    )
    width: int = setting(
        832,
        "frame width in pixels",
        low=16,
        high=MAX_SIDE,
        grid=(16, 0),
        also=("size", "resolution", "w"),
    )
    num_frames: int = setting(
        81,
        "frames in the video, 4 n + 1",
        low=1,
        high=10_001,
        grid=(4, 1),
        also=("frames", "frame_num", "frame_count", "length", "video_length", "duration"),
    )
    fps: int = setting(
        16,
        "frames a second of the written video",
        low=1,
        high=1000,
        also=("frame_rate", "framerate"),
    )

    num_inference_steps: int = setting(
        50,
        "denoising steps",
        low=1,
        high=1000,
        group="Sampling",
        also=("steps", "num_steps", "sample_steps", "sampling_steps", "inference_steps"),
    )
    timesteps: tuple[float, ...] | None = setting(
        None,
        "noise levels of the steps from 1000 down, before flow_shift moves them, as "
        "1000,750,500,250; null: the sampler's own num_inference_steps",
        also=("denoising_step_list", "sigmas", "custom_timesteps"),
    )
    sampler: Literal["unipc", "euler"] = setting(
        "unipc", "how a step is taken", also=("scheduler", "solver", "sample_solver")
    )
    flow_shift: float = setting(
        5.0, "above 1: more steps at high noise", above=0, also=("shift", "sample_shift")
    )
    boundary_ratio: float | None = setting(
        None,
        "noise level where the low-noise expert takes over; null: one expert",
        above=0,
        below=1,
        also=("boundary", "switch"),
    )
    guidance_scale: float | None = setting(
        5.0,
        "classifier-free guidance, of both experts; 1 or less: off",
        low=0,
        also=("guidance", "cfg", "cfg_scale", "scale", "sample_guide_scale"),
    )
    guidance_scale_high: float | None = setting(None, "guidance of the high-noise expert", low=0)
    guidance_scale_low: float | None = setting(
        None, "guidance of the low-noise expert", low=0, also=("guidance_scale_2",)
    )
    batch_guidance: bool = setting(True, "both guidance branches in one batch (else one by one)")
    max_sequence_length: int = setting(
        512,
        "tokens of the prompt",
        low=1,
        high=4096,
        also=("tokens", "max_tokens", "text_len", "max_length"),
    )

    weights_dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16",
        "of the transformer's parameters",
        group="Machine",
        also=("dtype", "precision", "torch_dtype"),
    )
    quantize: Literal["int8", "fp8"] | None = setting(
        None,
        "the matrices of the transformer's blocks in eight bits, with a scale for each output, "
        "rounded as they are loaded",
        also=("quantization", "quant", "fp8", "int8", "fp8_quantization", "dit_quant_scheme"),
    )
    weights: Literal["widen", "keep"] = setting(
        "widen",
        "of a transformer's files in eight bits or fewer, such as FP8 or GGUF: widened to "
        "weights_dtype as they are read; keep: as they are on the device, too",
    )
    activations_dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "of the transformer's arithmetic", also=("dtype", "precision", "torch_dtype")
    )
    attention: Literal["auto", "cudnn", "splash", "chunked", "xla"] = setting(
        "auto",
        "attention kernel; auto takes the fastest that the device has",
        also=("attn", "attention_backend", "flash_attention", "sdpa"),
    )
    low_memory: bool = setting(
        False,
        "the text and image encoders leave the device once they have encoded",
        also=("offload", "offload_model", "cpu_offload", "lowvram", "t5_cpu"),
    )
    nonfinite: Literal["stop", "each_step", "keep"] = setting(
        "stop",
        "NaN or infinity fails a run once it is denoised; each_step: after the first such step, "
        "for one reading a step; keep: the video is written nevertheless",
        commands=("generate",),
        also=("check_nan", "nan_check", "debug_nans"),
        kept=False,
    )
    use_kv_cache: bool = setting(
        False, "keys and values of the prompt (and image) once a run, for memory"
    )
    mesh: str = setting(
        "auto",
        "devices along each axis, as data:1,fsdp:2,context:4,tensor:1; auto: the fastest that fits",
        also=("devices", "sharding", "parallel", "ulysses_size", "ring_size", "tensor_parallel"),
    )
    compilation_cache: bool | str = setting(
        True,
        "keep compiled programs for later runs in your cache folder, or in the one named here",
        also=("cache_dir", "jax_cache_dir", "jax_compilation_cache_dir", "compile_cache"),
        kept=False,
    )
    target: str | None = setting(
        None,
        "machine to compile for, such as v6e:2x4, tpu7x:2x2x1, h100 or h100:8; null: this one",
        commands=("plan", "compile"),
        also=("device", "hardware", "machine", "gpu", "tpu"),
    )

    coordinator: str | None = setting(
        None,
        "HOST:PORT of process 0, where several processes make one video; null: as "
        "JAX_COORDINATOR_ADDRESS, SLURM, Open MPI or the TPU slice says; off: this one alone",
        commands=_COMPUTING,
        group="Several processes",
        also=("coordinator_address", "master_addr", "rdzv_endpoint", "hosts", "distributed"),
        kept=False,
    )
    process_id: int | None = setting(
        None,
        "this process's own number, from 0 on; null: as the environment says",
        low=0,
        commands=_COMPUTING,
        also=("rank", "node_rank", "host_id"),
        kept=False,
    )
    num_processes: int | None = setting(
        None,
        "how many there are; null: as the environment says",
        low=1,
        commands=_COMPUTING,
        also=("world_size", "nnodes", "num_hosts"),
        kept=False,
    )
    heartbeat_timeout: int = setting(
        HEARTBEAT,
        "seconds after which a process that is not heard of counts as dead, which ends all",
        low=1,
        commands=_COMPUTING,
        kept=False,
    )

    reference_steps: int | None = setting(
        None,
        "steps of a converged run, a second reference beside the dense one",
        low=1,
        high=1000,
        commands=("compare",),
        group="One command's own",
    )
    sweep: str | None = setting(
        None,
        "a setting of a caching method over many values, a variant each: KEY:LOW..HIGH, "
        "KEY:LOW..HIGH:COUNT or KEY:VALUE,VALUE; several with ; between",
        commands=("compare",),
        also=("grid", "range", "scan"),
    )
    figure: str | None = setting(
        None,
        "picture of closeness against speed to draw: .png, .pdf or .svg",
        commands=("compare",),
        path=True,
    )
    repeats: int = setting(
        3, "runs of each variant to time, at least", low=1, commands=("compare", "benchmark")
    )
    videos: str | None = setting(
        None,
        "instead of generating: folders of mp4 files with equal names, the reference first",
        commands=("compare",),
        also=("folders",),
    )

    layout: Literal["diffusers", "original", "comfyui", "gguf"] = setting(
        "diffusers",
        "of the files to write: diffusers' folders, the authors' folder, ComfyUI's single files; "
        "gguf: those, with the transformers in GGUF",
        commands=("convert",),
        also=("format",),
    )
    dtype: (
        Literal[
            "float32",
            "bfloat16",
            "float16",
            "float8",
            "q8_0",
            "q5_1",
            "q5_0",
            "q4_1",
            "q4_0",
        ]
        | None
    ) = setting(
        None,
        "of the numbers to write; float8: the layers' products, each with a scale; q...: these in "
        "GGUF's blocks; null: as they are, quantised ones bfloat16",
        commands=("convert",),
    )
    json: bool = setting(False, "print JSON", commands=("plan", "compile"))
    plot: str | None = setting(
        None,
        "picture to draw: .png, .pdf or .svg",
        commands=("plan",),
        also=("draw", "chart"),
        path=True,
    )
