"""Configuration: where values come from, and which mistakes are refused before any work."""

import dataclasses
import io
import json
from typing import ClassVar

import pytest

from wanjax import caching
from wanjax.caching import Curve, MagCache
from wanjax.caching.method import keys_of
from wanjax.config.keys import keys, method_of
from wanjax.config.resolve import load_preset, preset_names, resolve
from wanjax.config.saved import kept
from wanjax.errors import Notice, UsageError
from wanjax.planning.run import prepare

OFFICIAL = {  # Wan-Video/Wan2.1 and Wan2.2, wan/configs: steps, shift, (high, low), boundary
    "wan2.2-t2v-a14b": (40, 12.0, (4.0, 3.0), 0.875),
    "wan2.2-i2v-a14b": (40, 5.0, (3.5, 3.5), 0.9),
    "wan2.1-t2v-1.3b": (50, 5.0, (5.0, None), None),
    "wan2.1-t2v-14b": (50, 5.0, (5.0, None), None),
    "wan2.1-i2v-14b-480p": (40, 3.0, (5.0, None), None),
    "wan2.1-i2v-14b-720p": (40, 5.0, (5.0, None), None),
}


def plan_config(*args):
    return resolve(args, "plan")


def model_folder(path, *, experts=1, in_channels=16, shift=3.0):
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}
    if experts == 2:
        index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.9}
    else:
        index |= {"transformer_2": [None, None], "boundary_ratio": None}
    files = {
        "model_index.json": index,
        "transformer/config.json": {"in_channels": in_channels, "out_channels": 16},
        "scheduler/scheduler_config.json": {"flow_shift": shift},
    }
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sampling_values(name):
    config = load_preset(name)
    guidance = (config.guidance_scale_high, config.guidance_scale_low)
    assert (
        config.num_inference_steps, config.flow_shift, guidance, config.boundary_ratio
    ) == OFFICIAL[name]  # fmt: skip
    assert config.task == ("i2v" if "i2v" in name else "t2v")
    assert (config.num_frames, config.fps, config.max_sequence_length) == (81, 16, 512)
    assert config.negative_prompt.endswith("倒着走")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_plans(name):
    config = load_preset(name)
    assert prepare(config).plan.ideal_speedup == 1
    if name in caching.shipped_curves():
        assert prepare(dataclasses.replace(config, use_magcache=True)).plan.ideal_speedup > 1.3


def test_default_preset():
    assert plan_config().preset == "tiny-t2v"
    assert plan_config("image=ball.png").preset == "tiny-i2v"


def test_later_layers_win(tmp_path):
    file = tmp_path / "my.yml"
    file.write_text("preset: wan2.2-t2v-a14b\nseed: 3\nheight: 480\n")
    config = plan_config(str(file), "height=512")
    assert (config.preset, config.seed, config.height, config.width) == (
        "wan2.2-t2v-a14b", 3, 512, 1280,
    )  # fmt: skip


def test_guidance_of_both_and_of_each_expert():
    def scales(*args):
        config = plan_config("wan2.2-t2v-a14b", *args)
        return config.guidance_scale, config.guidance_scale_high, config.guidance_scale_low

    assert scales() == (None, 4, 3)
    assert scales("guidance_scale=6") == (6, 6, 6)
    assert scales("guidance_scale=6", "guidance_scale_low=1") == (None, 6, 1)
    assert scales("guidance_scale_high=5") == (None, 5, 3)
    schedule = prepare(plan_config("wan2.2-t2v-a14b", "guidance_scale_low=1")).plan.schedule
    assert (schedule.guidance_scales[0], schedule.guidance_scales[-1]) == (4, 1)


@pytest.mark.parametrize("word", ["True", "true", "yes", "on"])
def test_values_as_in_yaml(word):
    config = plan_config(
        "wan2.1-t2v-1.3b", f"use_magcache={word}", "magcache_thresh=1e-2", "image=null",
        "mag_ratios_base=[0.99, 0.98]", "prompt=no", "negative_prompt=",
    )  # fmt: skip
    assert config.use_magcache is True
    assert config.magcache_thresh == 0.01
    assert config.mag_ratios_base == (0.99, 0.98)
    assert (config.prompt, config.negative_prompt, config.image) == ("no", "", None)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["hieght=64"], "unknown key hieght; did you mean height"),
        (["height=abc"], "height=abc: must be a whole number"),
        (["height=100"], "height=100: must be a multiple of 16; nearest: 96 or 112"),
        (["width=8"], "width=8: must be at least 16"),
        (["num_frames=16"], "num_frames=16: must be 4 n .* nearest: 13 or 17"),
        (["num_frames=0"], "num_frames=0: must be at least 1"),
        (["num_inference_steps=0"], "num_inference_steps=0: must be at least 1"),
        (["num_inference_steps=2.5"], "must be a whole number"),
        (["flow_shift=0"], "flow_shift=0: must be above 0"),
        (["flow_shift=inf"], "flow_shift=inf: must be a number"),
        (["boundary_ratio=1.5"], "boundary_ratio=1.5: must be above 0, below 1"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["sampler=ddim"], "sampler=ddim: must be unipc or euler"),
        (["attention=flsah"], "attention=flsah: must be auto or cudnn or splash or chunked or xla"),
        (["use_magcache=maybe"], "use_magcache=maybe: must be True or False"),
        (["retention_ratio=2"], "retention_ratio=2: must be at least 0, at most 1"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["seed=1", "--seed", "2"], "seed is given twice"),
        (["--seed"], "--seed: its value is missing, as in --seed VALUE or seed=VALUE"),
        (["seed"], "seed: its value is missing, as in seed=VALUE"),
        (["-s", "1"], "-s: settings are written key=value or --key value"),
        (["tiny-t2w"], "unknown preset tiny-t2w; did you mean tiny-t2v"),
        (["wan2.2"], r"did you mean wan2.2-i2v-a14b or .*wan2.2-ti2v-5b\?"),
        (["cat"], "unknown preset cat.* of a single word is prompt=cat"),
        (["a", "red", "ball"], 'A prompt stands in quotes, as in "a red ball"'),
        (["use_magcahe"], "unknown key use_magcahe; did you mean use_magcache"),
        (["a red ball", "prompt=a cat"], "prompt is given twice"),
        (["tiny-t2v", "tiny-i2v"], "two presets or files: tiny-t2v and tiny-i2v; name one"),
        (["prompt=@no.txt"], "prompt=@no.txt: no.txt: no such file"),
        (["seed=randm"], "seed=randm: must be a whole number or random"),
        (["tiny-t2v", "preset=tiny-i2v"], "two presets"),
        (["model=someone/else"], "say whose sampling values"),
        (["no/such/folder.yml"], "no such file"),
        (["task=i2v"], "tiny-t2v is t2v with two experts"),
        (["boundary_ratio=null"], "go with the model"),
        (["wan2.1-t2v-14b", "guidance_scale_low=3"], "the model has one expert"),
        (["magcache_K=4"], "magcache_K acts only with use_magcache=True"),
    ],
)
def test_mistakes(args, text):
    with pytest.raises(UsageError, match=text):
        plan_config(*args)


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("steps", "num_inference_steps"),
        ("size", "height or width"),
        ("frames", "num_frames"),
        ("cfg-scale", "guidance_scale"),
        ("cache", "use_magcache or use_"),
        ("precision", "weights_dtype or activations_dtype"),
    ],
)
@pytest.mark.parametrize("form", ["{}=1", "--{}=1", "{}"])
def test_a_key_by_another_name_is_told_by_its_meaning(word, keys, form):
    with pytest.raises(UsageError, match=keys):
        plan_config(form.format(word))


def test_a_key_of_another_command_is_told_by_its_meaning_too():
    with pytest.raises(UsageError, match="convert` alone; did you mean weights_dtype or"):
        resolve(["dtype=float32"])


@pytest.mark.parametrize(
    "args",
    [
        ["tiny-t2v", "prompt=a red ball", "seed=3", "use_magcache=True"],
        ["a red ball", "tiny-t2v", "use_magcache", "seed=3"],
        ["--prompt", "a red ball", "--seed", "3", "--use-magcache"],
        ["--use_magcache=yes", "--seed=3", "--prompt=a red ball", "--preset", "tiny-t2v"],
        ["use_magcache", "--no-use-sen-cache", "seed=3", "wanjax/tiny/t2v", "a red ball"],
        ["--use-magcache", "on", "--seed", "3", "@{file}"],
        ["use_magcache", "seed=3", "prompt=@{file}"],
    ],
    ids=lambda args: " ".join(args),
)
def test_one_command_line_is_written_in_many_ways(args, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("a red ball\n")
    config = plan_config(*(arg.format(file=file) for arg in args))
    said = (config.preset, config.prompt, config.seed, config.use_magcache, config.use_sen_cache)
    assert said == ("tiny-t2v", "a red ball", 3, True, False)


def test_a_hub_id_is_a_position():
    config = plan_config("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "two cats boxing")
    assert (config.preset, config.prompt) == ("wan2.2-i2v-a14b", "two cats boxing")


@pytest.mark.parametrize("argument", ["-", "prompt=-", "--prompt=-"])
def test_a_prompt_by_standard_input(argument, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a ball = a circle\n"))
    for _ in range(2):  # as the variants of a comparison read it
        assert plan_config(argument).prompt == "a ball = a circle"


def test_a_random_seed_is_drawn_once():
    seeds = {plan_config("seed=random").seed for _ in range(4)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_one_seed_or_many_and_one_prompt_or_many(tmp_path):
    file = tmp_path / "my.yml"
    file.write_text("prompts: many.txt\nseeds: [4, 5]\n")
    config = resolve([str(file)], "compare")
    assert (config.prompts, config.seeds, config.seed) == ("many.txt", (4, 5), 4)
    config = resolve([str(file), "a red ball", "seed=3"], "compare")  # later wins
    assert (config.prompts, config.prompt, config.seeds) == (None, "a red ball", (3,))
    with pytest.raises(UsageError, match="seed and seeds exclude one another"):
        resolve(["seed=1", "seeds=1,2"], "compare")
    with pytest.raises(UsageError, match="seeds=1,-2: must be at least 0"):
        resolve(["seeds=1,-2"], "compare")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "prompt is missing"),
        (["prompt= "], "prompt is missing"),
        (["tiny-i2v", "prompt=x"], "image is missing"),
        (["tiny-t2v", "prompt=x", "image=ball.png"], "takes no image"),
        (["prompt=x", "image=no.png"], "image=no.png: no such file"),
        (["prompt=x", "model=./no/folder"], "there is no folder no/folder"),
        (["prompt=x", "output=ball.avi", "model={model}"], "ends in .mp4 or .webm or .webp or .g"),
        (["prompt=x", "output=videos", "model={model}"], "ends in .mp4.* folder of frames: vide"),
        (["prompt=x", "output={model}/model_index.json/", "model={model}"], "is a file, no folder"),
        (["prompt=x", "video_quality=lossless", "model={model}"], "or lossless in .webm or .webp"),
        (["prompt=x", "video_quality=best", "model={model}"], "standard or high or lossless"),
        (["prompt=x", "output=a.gif", "fps=60", "model={model}"], "more than a .gif can have"),
        (["prompt=x", "output=/dev/null/a.mp4", "model={model}"], "is a file, no folder"),
        (["prompt=x", "json=True"], "json is a key of `wanjax plan`, `wanjax compile` alone"),
    ],
)
def test_mistakes_of_generate(args, text, tmp_path):
    folder = model_folder(tmp_path)
    with pytest.raises(UsageError, match=text):
        resolve([arg.format(model=folder) for arg in args], "generate")


def test_no_curve_says_how_to_get_one(tmp_path):
    folder = model_folder(tmp_path)
    with pytest.raises(UsageError, match=r"has no magnitude curve.*wanjax calibrate model="):
        prepare(plan_config(f"model={folder}", "use_magcache=True"))
    with pytest.raises(UsageError, match=r"curve no\.json: no such file"):
        prepare(plan_config("use_magcache=True", "mag_ratios_base=no.json"))


LIST = ",".join(["1.0"] * 2 + ["0.99"] * 78)


@pytest.mark.parametrize("written", [LIST, f"[{LIST}]", LIST.replace(",", ", ")])
def test_a_list_of_ratios_has_one_grammar_with_every_other_list(written):
    """Regression: without brackets the list was taken for a file's name."""
    config = plan_config("tiny-t2v", "use_magcache=True", f"mag_ratios_base={written}")
    assert config.mag_ratios_base == (1.0, 1.0, *[0.99] * 78)
    assert len(prepare(config).plan.skipped_steps) > 10
    for seeds in ("1,2", "[1, 2]"):
        assert resolve([f"seeds={seeds}"], "compare").seeds == (1, 2)


def test_two_caches_are_refused_by_name(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Other(caching.Method):
        name: ClassVar = "other"
        help: ClassVar = "skip steps some other way"

    monkeypatch.setitem(caching.METHODS, "other", Other)
    with pytest.raises(UsageError, match="use_magcache and use_other exclude one another"):
        plan_config("wan2.1-t2v-1.3b", "use_magcache=True", "use_other=True")


def test_bare_folder_falls_back_to_its_own_configs(tmp_path):
    one = plan_config(f"model={model_folder(tmp_path / 'one', shift=7.0)}")
    two = plan_config(f"model={model_folder(tmp_path / 'two', experts=2, in_channels=36)}")
    assert (one.preset, one.flow_shift, one.boundary_ratio, one.task) == (None, 7.0, None, "t2v")
    assert (two.flow_shift, two.boundary_ratio, two.task) == (3.0, 0.9, "i2v")


def test_preset_wins_over_the_folder(tmp_path):
    folder = model_folder(tmp_path, shift=3.0)
    config = plan_config("wan2.1-t2v-1.3b", f"model={folder}")
    assert (config.flow_shift, config.model) == (5.0, str(folder))
    with pytest.raises(UsageError, match=r"two experts, the model in .* one expert"):
        plan_config("wan2.2-t2v-a14b", f"model={folder}")


def test_hub_id_of_a_preset_brings_its_values():
    config = plan_config("model=Wan-AI/Wan2.2-I2V-A14B-Diffusers")
    assert config.preset == "wan2.2-i2v-a14b"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("height: [", "no valid YAML"),
        ("- height", "must hold `key: value` lines"),
        ("hight: 3", "my.yml: unknown key hight; did you mean height"),
        ("height: tall", "my.yml: height=tall: must be a whole number"),
        ("height: 100", "my.yml: height=100: must be a multiple of 16"),
    ],
)
def test_mistakes_in_a_file(content, text, tmp_path):
    file = tmp_path / "my.yml"
    file.write_text(content)
    with pytest.raises(UsageError, match=text):
        plan_config(str(file))


OLD_CONFIG = {  # of a version with other keys: `gone` has been removed, newer ones are not there
    "preset": "wan2.2-t2v-a14b",
    "prompt": "two cats",
    "seed": 3,
    "seeds": [0],
    "prompts": None,
    "num_inference_steps": 30,
    "guidance_scale": None,
    "guidance_scale_high": 5.0,
    "guidance_scale_low": 2.0,
    "gone": None,
}


def write_record(path, **values):
    path.write_text(json.dumps({"config": OLD_CONFIG | values, "plan": {}}))
    return str(path)


def test_a_record_of_another_version(tmp_path):
    config = plan_config(write_record(tmp_path / "cats.json"))
    assert (config.prompt, config.seed, config.seeds) == ("two cats", 3, (3,))
    assert (config.num_inference_steps, config.flow_shift) == (30, 12.0)
    assert (config.guidance_scale_high, config.guidance_scale_low) == (5.0, 2.0)
    assert plan_config(write_record(tmp_path / "cats.json"), "seed=4", "a dog = a cat").seed == 4
    with pytest.warns(Notice, match=r"cats\.json: this version has no gone=7: left out"):
        plan_config(write_record(tmp_path / "cats.json", gone=7))


def test_a_record_of_this_version_is_the_configuration_again(tmp_path):
    config = resolve(["wan2.2-i2v-a14b", "x y", "use_sen_cache", "seed=9", "target=h100"], "plan")
    (tmp_path / "it.json").write_text(json.dumps({"config": kept(config)}))
    assert plan_config(str(tmp_path / "it.json")) == dataclasses.replace(config, target=None)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("curve.json", '{"format": "x"}', "curve.json is no record of a video"),
        ("cut.json", '{"config": ', "is cut short or not valid JSON"),
        ("old.json", '{"config": {"height": 3}}', r"old.json: height=3: must be at least 16"),
        ("my.mp4", "no", "my.mp4 (cannot be read as a video|is no record of a video)"),
    ],
)
def test_mistakes_in_a_record(name, content, text, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=text):
        plan_config(str(tmp_path / name))


def test_a_file_may_be_empty(tmp_path):
    (tmp_path / "my.yml").write_text("")
    assert plan_config(str(tmp_path / "my.yml")).preset == "tiny-t2v"


def test_every_setting_of_a_cache_has_its_key():
    for name, method in caching.METHODS.items():
        assert f"use_{name}" in keys()
        assert set(keys_of(method).values()) <= set(keys())


def test_settings_reach_the_method(tmp_path):
    path = tmp_path / "curve.json"
    Curve.load("wan2.1-t2v-1.3b").save(path)
    config = plan_config(
        "wan2.1-t2v-1.3b", "use_magcache=True", "magcache_thresh=0.1", "magcache_K=3",
        "retention_ratio=0.3", f"mag_ratios_base={path}", "magcache_resample=nearest",
    )  # fmt: skip
    assert method_of(config) == MagCache(0.1, 3, 0.3, mag_ratios_base=str(path), resample="nearest")
