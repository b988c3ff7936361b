"""What native code of the thread pool needs of an architecture: a pause, and the floating-point control word."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """What the text needs to know of an architecture. ``flush`` is the floating-point control word kernels run under:
    denormals are zero on the way in and out, rounding to nearest, no traps."""

    futex: int
    flush: int
    text: str


_X86 = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()

define internal void @pause() {
  call void @llvm.x86.sse2.pause()
  ret void
}

define internal i64 @get_control() {
  %cell = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  %word = load i32, ptr %cell
  %wide = zext i32 %word to i64
  ret i64 %wide
}

define internal void @set_control(i64 %wide) {
  %cell = alloca i32
  %word = trunc i64 %wide to i32
  store i32 %word, ptr %cell
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
"""

_ARM = """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare void @llvm.aarch64.isb(i32)

define internal void @pause() {                             ; "yield" does nothing on most cores
  call void @llvm.aarch64.isb(i32 15)
  ret void
}

define internal i64 @get_control() {
  %word = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %word
}

define internal void @set_control(i64 %word) {
  call void @llvm.aarch64.set.fpcr(i64 %word)
  ret void
}
"""

MACHINES = {
    "x86_64": Machine(futex=202, flush=0x9FC0, text=_X86),  # FTZ, DAZ, all traps masked
    "aarch64": Machine(futex=98, flush=1 << 24 | 1 << 19, text=_ARM),  # FZ, FZ16
}
