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
    assert (high.resident, high.peak) == (27 + 1 + 2, 27 + 1 + 2 + 8)
    assert placement.fits


def test_both_experts_stay_where_there_is_room_for_them_alone():
    placement = place(WEIGHTS, STAGES, limit=74)
    assert [stage.places["text_encoder"] for stage in placement.stages] == [
        "device", "pinned_host", "pinned_host", "pinned_host",
    ]  # fmt: skip
    for stage in placement.stages:
        assert (stage.places["transformer"], stage.places["transformer_2"]) == ("device", "device")
    assert placement.fits


def test_else_a_part_is_on_the_device_until_it_has_been_used():
    on_device = [
        sorted(name for name, where in stage.places.items() if where == "device")
        for stage in place(WEIGHTS, STAGES, limit=60).stages
    ]
    assert on_device == [
        ["text_encoder", "transformer", "vae"],
        ["transformer", "vae"],
        ["transformer_2", "vae"],
        ["vae"],
    ]


def test_as_much_of_the_next_expert_arrives_as_there_is_room_for():
    """Beside 28 GiB of the high-noise expert and the VAE, and 10 of its steps, of 57."""
    high, low = (place(WEIGHTS, STAGES, limit=60)[s] for s in ("denoise_high", "denoise_low"))
    assert (high.peak, high.arriving) == (38, 57 - 38)
    assert low.arriving == 0
    assert {stage.arriving for stage in place(WEIGHTS, STAGES, limit=100).stages} == {0}
    assert place(WEIGHTS, STAGES, limit=40)["denoise_high"].arriving == 0


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
    """The low-noise expert is not fetched before its stage, though it would fit."""
    stages = (*STAGES[:1], Stage("denoise_high", frozenset(["transformer"]), added=1), *STAGES[2:])
    placement = place(WEIGHTS | {"text_encoder": 30}, stages, limit=64)
    assert placement["text"].places["transformer_2"] == "pinned_host"
    assert placement["denoise_high"].places["transformer_2"] == "pinned_host"
    assert placement["denoise_high"].arriving == 27


def test_of_equals_the_one_that_is_used_last_leaves_first():
    text = place(WEIGHTS, STAGES, limit=60)["text"]
    assert (text.places["transformer"], text.places["transformer_2"]) == ("device", "pinned_host")
