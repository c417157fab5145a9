"""Where a model's parts are while a run goes on."""

from wanjax.planning.placement import Stage, place

WEIGHTS = {"transformer": 27, "transformer_2": 27, "vae": 1, "text_encoder": 11}
STAGES = (
    Stage("text", frozenset(["text_encoder"])),
    Stage("denoise_high", frozenset(["transformer"]), held=2, added=8),
    Stage("denoise_low", frozenset(["transformer_2"]), held=2, added=8),
    Stage("decode", frozenset(["vae"]), added=14),
)


def test_everything_stays_where_it_fits():
    placement = place(WEIGHTS, STAGES, limit=100)
    assert {p for stage in placement.stages for p in stage.places.values()} == {"device"}
    assert placement.peak == 66 + 14
    assert placement.fits


def test_the_idle_expert_waits_on_the_host_where_both_do_not_fit():
    placement = place(WEIGHTS, STAGES, limit=60)
    high, low = placement["denoise_high"], placement["denoise_low"]
    assert (high.places["transformer"], high.places["transformer_2"]) == ("device", "pinned_host")
    assert (low.places["transformer"], low.places["transformer_2"]) == ("pinned_host", "device")
    assert (high.resident, high.peak) == (27 + 11 + 1 + 2, 27 + 11 + 1 + 2 + 8)
    assert placement.fits


def test_no_more_leaves_than_must():
    decode = place(WEIGHTS, STAGES, limit=60)["decode"]
    assert sorted(decode.places.values()) == ["device", "device", "device", "pinned_host"]


def test_what_cannot_fit_is_said():
    placement = place(WEIGHTS, STAGES, limit=30)
    assert not placement.fits
    assert placement.peak == 27 + 2 + 8
    assert set(placement["denoise_high"].places.values()) == {"device", "pinned_host"}


def test_a_part_that_no_stage_uses_stays_in_its_files():
    stages = (STAGES[0], STAGES[1], STAGES[3])
    for stage in place(WEIGHTS, stages, limit=None).stages:
        assert stage.places["transformer_2"] == "files"
        assert stage.places["transformer"] == "device"


def test_what_has_left_stays_away_until_it_is_used():
    """The high-noise expert is not fetched for decoding, though it would fit once more."""
    stages = (*STAGES[:3], Stage("decode", frozenset(["vae"]), added=1))
    placement = place(WEIGHTS, stages, limit=60)
    assert placement["decode"].places["transformer"] == "pinned_host"
    assert placement["decode"].places["transformer_2"] == "device"


def test_of_equals_the_one_that_is_used_last_leaves_first():
    text = place(WEIGHTS, STAGES, limit=60)["text"]
    assert (text.places["transformer"], text.places["transformer_2"]) == ("device", "pinned_host")
