"""What a compiled program's text says, on text written by hand."""

from wanjax.parallel.hlo import Collective, collectives, kernels

# Two gathers outside of a loop of 40 layers, an exchange and a sum in each of them.
LAYERS = """\
HloModule jit_step, entry_computation_layout={(bf16[8]{0})->bf16[64]{0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %both = f32[] add(f32[] %a, f32[] %b)
}

%body (carry: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %carry = (s32[], bf16[4,8]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element((s32[], bf16[4,8]{1,0}) %carry), index=1
  %swap = bf16[4,8]{1,0} all-to-all(bf16[4,8]{1,0} %x), replica_groups={{0,1,2,3}}
  ROOT %total = f32[16]{0:T(256)} all-reduce(f32[16]{0} %swap), to_apply=%sum
}

%more (carry: (s32[], bf16[4,8])) -> pred[] {
  %carry = (s32[], bf16[4,8]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%in_fusion (p: bf16[8]) -> bf16[64] {
  %p = bf16[8]{0} parameter(0)
  ROOT %inner = bf16[64]{0} all-gather(bf16[8]{0} %p), dimensions={0}
}

ENTRY %main (p: bf16[8]) -> bf16[64] {
  %p = bf16[8]{0} parameter(0)
  %start = (bf16[8]{0}, bf16[64]{0:T(8,128)(2,1)}) all-gather-start(bf16[8]{0} %p), dimensions={0}
  %done = bf16[64]{0} all-gather-done((bf16[8]{0}, bf16[64]{0}) %start)
  %fused = bf16[64]{0} fusion(bf16[8]{0} %p), kind=kLoop, calls=%in_fusion
  %loop = (s32[], bf16[4,8]{1,0}) while((s32[], bf16[4,8]{1,0}) %start), condition=%more, \
body=%body, backend_config={"known_trip_count":{"n":"40"},"other":"1"}
  ROOT %out = bf16[64]{0} copy(bf16[64]{0} %done)
}
"""


def test_collectives_in_a_loop_count_once_for_each_of_its_turns():
    found = collectives(LAYERS)
    assert found["all-to-all"] == Collective(40, 40 * 4 * 8 * 2)
    assert found["all-reduce"] == Collective(40, 40 * 16 * 4)


def test_an_asynchronous_collective_counts_once_and_what_it_receives():
    """The start's type has operand and result; the done repeats the result."""
    assert collectives(LAYERS)["all-gather"] == Collective(2, 2 * 64 * 2)


def test_an_exchange_hidden_behind_a_chain_of_fusions_counts_once():
    fused = """\
%{name} (p: bf16[1,8,64]) -> bf16[1,64,64] {{
  %p = bf16[1,8,64]{{2,1,0}} parameter(0)
  ROOT %g = bf16[1,64,64]{{2,1,0}} all-gather(%p), frontend_attributes={{chain_id="{chain}"}}
}}
"""
    text = "".join(
        fused.format(name=name, chain=chain)
        for name, chain in (("starts", 5), ("hides", 5), ("ends", 5), ("another", 6))
    )
    calls = "".join(
        f"  %{name}.1 = bf16[1,64,64]{{2,1,0}} fusion(%p), kind=kOutput, calls=%{name}\n"
        for name in ("starts", "hides", "ends", "another")
    )
    text += f"ENTRY %main (p: bf16[1,8,64]) -> bf16[1,64,64] {{\n{calls}}}\n"
    assert collectives(text) == {"all-gather": Collective(2, 2 * 64 * 64 * 2)}


def test_a_program_of_one_device_has_none():
    assert collectives("ENTRY %main () -> f32[] {\n  ROOT %c = f32[] constant(0)\n}\n") == {}


def test_loops_within_loops_multiply():
    text = """\
%inner (x: f32[2]) -> f32[2] {
  ROOT %r = f32[2]{0} collective-permute(f32[2]{0} %x), source_target_pairs={{0,1}}
}

%outer (x: f32[2]) -> f32[2] {
  ROOT %w = f32[2]{0} while(f32[2]{0} %x), condition=%c, body=%inner, \
backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  ROOT %w = f32[2]{0} while(f32[2]{0} %x), condition=%c, body=%outer, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""
    assert collectives(text) == {"collective-permute": Collective(15, 15 * 8)}


def test_fused_attention_is_recognised():
    assert kernels(
        '  %a = (bf16[2]) custom-call(bf16[2] %q), custom_call_target="__cudnn$fmhaSoftmax"\n'
        '  %b = f32[2] custom-call(f32[2] %q), custom_call_target="__cublas$gemm"\n'
        '  %c = f32[2] custom-call(f32[2] %q), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(run_step)/splash_attention"}\n'
    ) == ("cudnn", "splash")


# As a TPU's compiler writes it: no trip count; the counter starts at 1 and goes up by 2.
COUNTED = """\
%cond (p: (u32[], bf16[8])) -> pred[] {
  %limit = u32[]{:T(128)} constant(7)
  %p = (u32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

%body (p.1: (u32[], bf16[8])) -> (u32[], bf16[8]) {
  %two = u32[]{:T(128)} constant(2)
  %p.1 = (u32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %count.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x = bf16[8]{0} get-tuple-element(%p.1), index=1
  %next = u32[]{:T(128)} add(%count.1, %two), backend_config={"flag_configs":[]}
  %start = (bf16[8]{0}, bf16[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  %done = bf16[8]{0} collective-permute-done(%start)
  ROOT %both = (u32[]{:T(128)}, bf16[8]{0}) tuple(%next, %done)
}

ENTRY %main (a: bf16[8]) -> bf16[8] {
  %one = u32[]{:T(128)} constant(1)
  %copied = u32[]{:T(128)} copy(%one)
  %a = bf16[8]{0} parameter(0)
  %begin = (u32[]{:T(128)}, bf16[8]{0}) tuple(%copied, %a)
  %loop = (u32[]{:T(128)}, bf16[8]{0}) while(%begin), condition=%cond, body=%body
  ROOT %out = bf16[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_that_does_not_say_how_often_it_runs_is_counted():
    """1, 3, 5: three turns."""
    assert collectives(COUNTED) == {"collective-permute": Collective(3, 3 * 16)}
