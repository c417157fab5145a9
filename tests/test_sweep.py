"""One setting at many values: the variants of a sweep, its line, the figure."""

import made_up
import pytest

from wanjax.cli.main import main
from wanjax.errors import UsageError
from wanjax.evaluate.figure import draw_figure, series
from wanjax.planning.sweep import read_sweeps
from wanjax.planning.variants import read_variants

PICTURES = pytest.mark.parametrize("suffix", ["png", "svg"])


def swept(text, variants="dense,magcache,fewer-steps"):
    return read_variants(["tiny-t2v", f"sweep={text}"], "compare", variants)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("magcache_thresh:0.02..0.2", ("0.02", "0.065", "0.11", "0.155", "0.2")),
        ("magcache_thresh:0.1..0.3:3", ("0.1", "0.2", "0.3")),
        ("magcache_thresh: 0.3, 0.1", ("0.3", "0.1")),
        ("magcache_K:2..6", ("2", "3", "4", "5", "6")),
        ("magcache_K:2..4:7", ("2", "3", "4")),  # whole numbers, each once
        ("skip_steps:10..30:3", ("10", "20", "30")),
        ("magcache_estimate:repeat,linear", ("repeat", "linear")),
    ],
)
def test_values_of_a_sweep(text, values):
    (sweep,) = read_sweeps(text)
    assert sweep.values == values


def test_a_sweep_is_a_variant_for_each_value_of_what_it_varies():
    found = swept("magcache_thresh:0.1,0.2")
    names = ("magcache-thresh-0.1", "magcache-thresh-0.2")
    assert list(found.configs) == ["dense", "magcache", *names]
    assert [found.configs[name].magcache_thresh for name in names] == [0.1, 0.2]
    assert all(found.configs[name].use_magcache for name in names)
    assert found.lines == {"magcache, magcache_thresh": ("magcache", *names)}


def test_a_value_that_a_variant_has_already_is_no_further_variant():
    standing = swept("magcache_thresh:0.5").configs["magcache"].magcache_thresh
    found = swept(f"magcache_thresh:{standing},0.2")
    assert found.lines["magcache, magcache_thresh"] == ("magcache", "magcache-thresh-0.2")


def test_several_sweeps_and_several_variants_of_a_method():
    own = "mine:use_magcache=True;magcache_K=4"
    found = swept("magcache_thresh:0.2;sen_cache_epsilon:0.1,0.2", f"dense,magcache,{own}")
    assert found.lines == {
        "magcache, magcache_thresh": ("magcache", "magcache-thresh-0.2"),
        "mine, magcache_thresh": ("mine", "mine-thresh-0.2"),
        "sen_cache, sen_cache_epsilon": ("sen_cache-epsilon-0.1", "sen_cache-epsilon-0.2"),
    }
    assert found.configs["mine-thresh-0.2"].magcache_K == 4


def test_every_point_has_a_row_of_its_own_cost():
    found = swept("magcache_thresh:0.02,0.2")
    configs, rows = found.with_rows({"magcache": 23, "magcache-thresh-0.02": 27.2})
    assert rows["magcache-thresh-0.02"] == "fewer-steps-27"
    assert configs["fewer-steps-27"].num_inference_steps == 27


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("magcache_thresh", "sweep=magcache_thresh: write KEY:LOW..HIGH"),
        (";", "write KEY:LOW..HIGH"),
        ("magcache_thresh:1..2:x", "write KEY:LOW..HIGH"),
        ("magcache_thresh:0.1,", "write KEY:LOW..HIGH"),
        ("magcache_thres:0.1", "unknown key magcache_thres; did you mean magcache_thresh?"),
        ("flow_shift:3..5", "flow_shift is no setting of a caching method"),
        ("magcache_thresh:0.2..0.1", "LOW must be below HIGH"),
        ("magcache_thresh:0..0.1:1", "COUNT between 2 and 100"),
        ("magcache_thresh:low..high", "low..high are no numbers"),
        ("magcache_estimate:1..2", "magcache_estimate takes no numbers"),
        ("magcache_K:1,2;magcache_K:3", "magcache_K is swept twice"),
        ("magcache_thresh:-1,0.1", "variant magcache-thresh--1: magcache_thresh=-1: must be at"),
        ("magcache_estimate:linea", "magcache_estimate=linea: must be repeat or linear"),
    ],
)
def test_mistakes_in_a_sweep(text, error):
    with pytest.raises(UsageError, match=error.replace(".", r"\.").replace("?", r"\?")):
        swept(text)


def test_a_key_of_several_methods_needs_one_among_the_variants():
    with pytest.raises(UsageError, match="forecast, magcache, respaced have this key; say which"):
        swept("skip_steps:10..30", "dense,easycache")
    assert list(swept("skip_steps:10,20", "dense,forecast").lines) == ["forecast, skip_steps"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["figure=a.jpeg"], "figure=a.jpeg: name a file that ends in .png, .pdf, .svg"),
        (["figure=/nowhere/a.png"], "there is no folder /nowhere"),
        (["videos=.,..", "figure=a.png"], "figure: videos=.,.. are not generated"),
        (["videos=.,..", "sweep=magcache_K:1,2"], "sweep: videos=.,.. are not generated"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_runs(args, text, capsys):
    assert main(["compare", "tiny-t2v", *args]) == 2
    assert text in capsys.readouterr().err


NEAR = {
    "magcache": {"psnr": [31, 33]},
    "magcache-thresh-0.2": {"psnr": [28, 29]},
    "kv": {"psnr": [99, 99]},
    "fewer-steps": {"psnr": [30, 31]},
}


@pytest.fixture
def made():
    sweeps = {"magcache, magcache_thresh": ("magcache", "magcache-thresh-0.2")}
    return made_up.comparison(NEAR, exact=frozenset({"kv"}), sweeps=sweeps)


def test_the_figure_has_a_line_for_each_sweep_and_one_through_fewer_steps(made):
    """Exact variants have no place on it: they would leave no room for the others."""
    found = dict(series(made, "dense"))
    assert list(found) == ["magcache, magcache_thresh", "fewer-steps"]
    (one, other) = found["magcache, magcache_thresh"]
    assert (one.psnr, other.psnr, one.speed) == (32, 28.5, 2)
    assert one.interval == made.interval("magcache", "psnr", "dense")
    assert made.metrics()["lines"]["fewer-steps"] == ["dense", "fewer-steps"]


@PICTURES
def test_the_figure_is_drawn(made, suffix, tmp_path):
    pytest.importorskip("matplotlib", reason="Drawing needs matplotlib, of the extra `plot`.")
    path = tmp_path / f"figure.{suffix}"
    draw_figure(path, made)
    assert path.stat().st_size > 5000
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
