"""What this CPU is said to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lucid.core.errors import PlanError
from lucid.kernels import target
from lucid.kernels.ir import f32, f64, i8
from lucid.kernels.isa import AVX2, AVX512, AVX512_BF16, ISAS, NEON, SCALAR


def test_instruction_sets_are_those_of_the_operating_system() -> None:
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
    names = {isa.name for isa in target.cpu().runnable}
    assert ("avx2" in names) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in names) == ({"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags)
    assert ("avx512_bf16" in names) == ("avx512" in names and "avx512_bf16" in flags)
    assert ("neon" in names) == ("asimd" in flags)


def test_of_every_width_the_best_is_worth_a_kernel() -> None:
    cpu = target.CPU("some", (SCALAR, AVX2, AVX512, AVX512_BF16), 1, 2, 3)
    assert cpu.isas == (SCALAR, AVX2, AVX512_BF16)


def test_registers_wider_than_the_units_take_turns() -> None:
    wide, narrow = (target.CPU(name, (SCALAR, AVX2, AVX512), 1, 2, 3) for name in ("znver5", "znver4"))
    assert [wide.turns(isa) for isa in (SCALAR, AVX2, AVX512)] == [1, 1, 1]
    assert [narrow.turns(isa) for isa in (SCALAR, AVX2, AVX512)] == [1, 1, 2]
    older = target.CPU("some", (SCALAR, AVX2), 1, 2, 3)
    assert [cpu.unit_bytes for cpu in (wide, narrow, older)] == [64, 32, 32]


def test_the_best_comes_last_and_is_used() -> None:
    isas = target.cpu().isas
    assert list(isas) == sorted(isas, key=lambda isa: isa.vector_bytes)
    assert target.isa() is isas[-1]


def test_forcing_an_instruction_set() -> None:
    names = [isa.name for isa in target.cpu().isas]
    with target.using(names[0]) as outer:
        assert target.isa() is outer is ISAS[names[0]]
        with target.using(names[-1]):
            assert target.isa().name == names[-1]
        assert target.isa() is outer
        with pytest.raises(ZeroDivisionError), target.using(names[-1]):
            raise ZeroDivisionError
        assert target.isa() is outer
    assert target.isa() is target.cpu().isas[-1]


def test_the_environment_names_one_for_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_usual", target._usual.__wrapped__)
    monkeypatch.setenv("LUCID_ISA", "scalar")
    assert target.isa() is SCALAR
    monkeypatch.setenv("LUCID_ISA", "sse9")
    with pytest.raises(PlanError, match="LUCID_ISA: isa='sse9' does not run"):
        target.isa()


def test_what_does_not_run_is_refused() -> None:
    missing = next(name for name in ISAS if name not in [isa.name for isa in target.cpu().runnable])
    with (
        pytest.raises(PlanError, match=f"isa='{missing}' does not run on this CPU; .* do"),
        target.using(missing),
    ):
        raise AssertionError
    with pytest.raises(PlanError, match="isa='sse9'"), target.using("sse9"):
        raise AssertionError


@pytest.mark.parametrize(("isa", "of_f32", "of_f64", "of_i8"), [
    (SCALAR, 1, 1, 1), (NEON, 4, 2, 16), (AVX2, 8, 4, 32), (AVX512, 16, 8, 64),
])  # fmt: skip
def test_lanes(isa: Any, of_f32: int, of_f64: int, of_i8: int) -> None:
    assert [isa.lanes(t) for t in (f32, f64, i8)] == [of_f32, of_f64, of_i8]
    assert isa.arch in ("x86_64", "aarch64")


def test_caches_are_plausible_and_in_order() -> None:
    cpu = target.cpu()
    assert 8 << 10 <= cpu.l1_bytes <= 1 << 20
    assert cpu.l1_bytes < cpu.l2_bytes <= cpu.l3_bytes


def test_caches_unknown_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/nowhere/index0")]))
    assert [target._cache_bytes(level) for level in (1, 2, 3)] == [32 << 10, 512 << 10, 8 << 20]


def test_cores_are_those_we_may_use() -> None:
    assert target.cores() == len(os.sched_getaffinity(0))


def test_a_machine_without_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.platform, "machine", lambda: "vax")
    with pytest.raises(PlanError, match="no instruction set for vax; there are scalar, neon, avx2, avx512"):
        target.cpu.__wrapped__()
