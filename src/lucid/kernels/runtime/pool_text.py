"""The native half of the thread pool, as LLVM text: a region, the workers that come to help, and one way to wait.

A region is a list of steps, eight 64-bit slots each. Its owner opens the gate, works, shuts the gate and waits until
everyone inside has left. **Nobody waits for a worker that has not come in**: atomic counters hand out work a chunk at a
time, so a worker that sleeps, was never started, or was lost in a fork only leaves more chunks to the others.

Each thread begins with the same share of every step, a run of its chunks, and helps with the others' when its own are
done. So where steps, and regions, go through the same data in the same order, a thread finds in its caches what it left
there; read from another core's, it is several times as far where cores have last caches of their own.

Beside other programs the system may leave two threads on one core for seconds. A worker that comes in where its caller
computes steps aside, once; nobody is bound to a core, so several pools cannot bind themselves to the same.

=====  ========================================================================
slot   meaning
=====  ========================================================================
0, 1   kernel, fields
2, 3   tasks, chunk: 0 where each thread has a run of them, its only chunk
4, 5   chunks there are, a line for each share: how many of its chunks are handed out
6, 7   the event "chunks finished", for the barrier between two steps
=====  ========================================================================

An *event* is a counter and, beside it, how many threads sleep until it changes. Whoever changes the counter first adds,
then looks for sleepers; whoever sleeps first enters itself, then looks at the counter (inside the kernel's futex call):
in sequentially consistent order one of the two sees the other, so no wake-up is lost.
"""

from __future__ import annotations

from string import Template

from lucid.kernels.runtime.bound_text import BOUND, LAYOUT, STACK_BYTES, WORKSPACE
from lucid.kernels.runtime.machines import Machine

STEP_SLOTS = 8

_ROW = 16  #: little regions that find all workers asleep until one is woken: some 200 us, as long as a worker spins

# One call of a kernel under the kernels' control word: all that a machine without futexes needs.
_CALL = """
define void @call(ptr %kernel, ptr %fields, i64 %begin, i64 %end, i64 %thread) {
  %control = call i64 @get_control()
  call void @set_control(i64 $flush)
  call void %kernel(ptr %fields, i64 %begin, i64 %end, i64 %thread)
  call void @set_control(i64 %control)
  ret void
}
"""

_POOL = """
; Every shared word has a cache line of its own; the lines next to it hold only what is touched together with it.
@epoch = internal global [8 x i64] zeroinitializer, align 64    ; event: regions opened
@gate = internal global [8 x i64] zeroinitializer, align 64     ; event: threads inside, plus $open while it is open
@region = internal global [8 x i64] zeroinitializer, align 64   ; steps, how many, slots: there are, given out; core
@owner = internal global [8 x i64] zeroinitializer, align 64    ; 1 while someone has the pool
@crew = internal global [8 x i64] zeroinitializer, align 64     ; workers there are; 1 when they should go home; threads
                                                                ; that a region may have, 0 while nobody has said;
                                                                ; little regions in a row that found them all asleep

declare i64 @syscall(i64, ...)
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)

; Puts this thread on another core if it is on that one, and leaves it free to go again; nothing where threads outnumber
; cores, or cores 1024.
define void @part(i32 %core) {
entry:
  %here = call i32 @sched_getcpu()
  %together = icmp eq i32 %here, %core
  br i1 %together, label %ask, label %end
ask:
  %mask = alloca i1024, align 8
  store i1024 0, ptr %mask
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %allowed = load i1024, ptr %mask
  %count = call i1024 @llvm.ctpop.i1024(i1024 %allowed)
  %cores = trunc i1024 %count to i64
  %workers = load atomic i64, ptr @crew monotonic, align 8
  %room = icmp ugt i64 %cores, %workers
  br i1 %room, label %move, label %end
move:
  %number = zext i32 %here to i64
  %word = lshr i64 %number, 6
  %place = and i64 %number, 63
  %at = getelementptr i64, ptr %mask, i64 %word
  %all = load i64, ptr %at
  %bit = shl i64 1, %place
  %others_bits = xor i64 %bit, -1
  %others = and i64 %all, %others_bits
  store i64 %others, ptr %at
  %gone = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  store i64 %all, ptr %at
  %free = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  br label %end
end:
  ret void
}

; Adds to an event, then wakes those who sleep on it, but for `spare` of them.
define internal i64 @signal(ptr %event, i64 %change, i64 %spare) {
entry:
  %before = atomicrmw add ptr %event, i64 %change seq_cst
  %sleepers = getelementptr i64, ptr %event, i64 1
  %asleep = load atomic i64, ptr %sleepers seq_cst, align 8
  %wanted = sub i64 %asleep, %spare
  %any = icmp sgt i64 %wanted, 0
  br i1 %any, label %wake, label %end
wake:                                                       ; FUTEX_WAKE_PRIVATE
  %many = call i64 @llvm.umin.i64(i64 %wanted, i64 2147483647)
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %event, i64 129, i64 %many, i64 0, i64 0, i64 0)
  br label %end
end:
  %after = add i64 %before, %change
  ret i64 %after
}

; Waits until an event differs from `seen`: spins as long as the budget lasts, then sleeps. A sleep renews the budget.
define internal i64 @await(ptr %event, i64 %seen, ptr %budget) {
entry:
  %sleepers = getelementptr i64, ptr %event, i64 1
  %spins = load i64, ptr %budget
  br label %spin
spin:
  %left = phi i64 [%spins, %entry], [%fewer, %again]
  %now = load atomic i64, ptr %event acquire, align 8
  %changed = icmp ne i64 %now, %seen
  br i1 %changed, label %end, label %patience
patience:
  %tired = icmp sle i64 %left, 0
  br i1 %tired, label %sleep, label %again
again:
  call void @pause()
  %fewer = sub i64 %left, 1
  br label %spin
sleep:                                                      ; FUTEX_WAIT_PRIVATE while the low half is the one seen
  %e = atomicrmw add ptr %sleepers, i64 1 seq_cst
  %low = and i64 %seen, 4294967295
  %r = call i64 (i64, ...) @syscall(i64 $futex, ptr %event, i64 128, i64 %low, i64 0, i64 0, i64 0)
  %l = atomicrmw sub ptr %sleepers, i64 1 seq_cst
  %later = load atomic i64, ptr %event acquire, align 8
  %woken = icmp ne i64 %later, %seen
  br i1 %woken, label %end, label %sleep
end:
  %value = phi i64 [%now, %spin], [%later, %sleep]
  %rest = phi i64 [%left, %spin], [$spins, %sleep]
  store i64 %rest, ptr %budget
  ret i64 %value
}

; Helps with every step, in order, beginning with the share `home` of so many. Returns the chunks done.
define internal i64 @work(ptr %steps, i64 %count, i64 %thread, i64 %home, i64 %shares) {
entry:
  %budget = alloca i64
  store i64 $spins, ptr %budget
  %last = sub i64 %count, 1
  br label %step
step:
  %index = phi i64 [0, %entry], [%next_index, %barrier]
  %total = phi i64 [0, %entry], [%sum, %barrier]
  %at = getelementptr [$slots x i64], ptr %steps, i64 %index
  %kernel_at = getelementptr i64, ptr %at, i64 0
  %fields_at = getelementptr i64, ptr %at, i64 1
  %tasks_at = getelementptr i64, ptr %at, i64 2
  %chunk_at = getelementptr i64, ptr %at, i64 3
  %chunks_at = getelementptr i64, ptr %at, i64 4
  %lines_at = getelementptr i64, ptr %at, i64 5
  %finished = getelementptr i64, ptr %at, i64 6
  %kernel = load ptr, ptr %kernel_at
  %fields = load ptr, ptr %fields_at
  %tasks = load i64, ptr %tasks_at
  %chunk = load i64, ptr %chunk_at
  %chunks = load i64, ptr %chunks_at
  %lines = load ptr, ptr %lines_at
  br label %share
share:
  %visited = phi i64 [0, %step], [%visits, %over]
  %before = phi i64 [0, %step], [%mine, %over]
  %far_share = add i64 %home, %visited
  %which = urem i64 %far_share, %shares
  %behind = add i64 %which, 1
  %from_scaled = mul i64 %which, %chunks
  %to_scaled = mul i64 %behind, %chunks
  %from = udiv i64 %from_scaled, %shares
  %to = udiv i64 %to_scaled, %shares
  %size = sub i64 %to, %from
  %given_at = getelementptr [8 x i64], ptr %lines, i64 %which
  br label %look
look:
  %mine = phi i64 [%before, %share], [%more, %run]
  %gone = load atomic i64, ptr %given_at monotonic, align 8 ; what is over is looked at, and no longer written
  %left = icmp ult i64 %gone, %size
  br i1 %left, label %take, label %over
take:
  %k = atomicrmw add ptr %given_at, i64 1 monotonic
  %some = icmp ult i64 %k, %size
  br i1 %some, label %run, label %over
over:
  %visits = add i64 %visited, 1
  %all = icmp eq i64 %visits, %shares
  br i1 %all, label %done, label %share
run:
  %n = add i64 %from, %k
  %begin = mul i64 %n, %chunk
  %far = add i64 %begin, %chunk
  %end = call i64 @llvm.umin.i64(i64 %far, i64 %tasks)
  call void %kernel(ptr %fields, i64 %begin, i64 %end, i64 %thread)
  %more = add i64 %mine, 1
  br label %look
done:
  %sum = add i64 %total, %mine
  %was_last = icmp eq i64 %index, %last
  br i1 %was_last, label %leave, label %report
report:
  %so_far = call i64 @signal(ptr %finished, i64 %mine, i64 0)
  br label %barrier_check
barrier_check:
  %seen = phi i64 [%so_far, %report], [%newer, %wait]
  %complete = icmp eq i64 %seen, %chunks
  br i1 %complete, label %barrier, label %wait
wait:
  %newer = call i64 @await(ptr %finished, i64 %seen, ptr %budget)
  br label %barrier_check
barrier:
  %next_index = add i64 %index, 1
  br label %step
leave:
  ret i64 %sum
}

; A worker, and its number, from 1: the caller of a region has the share 0.
define ptr @worker(ptr %number) {
entry:
  %own = ptrtoint ptr %number to i64
  %budget = alloca i64
  store i64 $spins, ptr %budget
  call void @set_control(i64 $flush)
  br label %wait
wait:
  %seen = phi i64 [-1, %entry], [%now, %enter], [%now, %out]
  %now = call i64 @await(ptr @epoch, i64 %seen, ptr %budget)
  %leave_at = getelementptr i64, ptr @crew, i64 1
  %leave = load atomic i64, ptr %leave_at acquire, align 8
  %over = icmp ne i64 %leave, 0
  br i1 %over, label %end, label %enter
enter:
  %before = load atomic i64, ptr @gate acquire, align 8
  %is_open = icmp uge i64 %before, $open
  br i1 %is_open, label %try, label %wait
try:
  %inside = add i64 %before, 1
  %pair = cmpxchg ptr @gate, i64 %before, i64 %inside acq_rel monotonic
  %entered = extractvalue {i64, i1} %pair, 1
  br i1 %entered, label %in, label %enter
in:
  %steps_at = getelementptr i64, ptr @region, i64 0
  %count_at = getelementptr i64, ptr @region, i64 1
  %slots_at = getelementptr i64, ptr @region, i64 2
  %given_at = getelementptr i64, ptr @region, i64 3
  %slot = atomicrmw add ptr %given_at, i64 1 monotonic
  %slots = load i64, ptr %slots_at
  %room = icmp ult i64 %slot, %slots
  br i1 %room, label %help, label %out
help:
  %steps = load ptr, ptr %steps_at
  %count = load i64, ptr %count_at
  %home = urem i64 %own, %slots
  %core_at = getelementptr i64, ptr @region, i64 4
  %core = load i32, ptr %core_at
  call void @part(i32 %core)
  %chunks = call i64 @work(ptr %steps, i64 %count, i64 %slot, i64 %home, i64 %slots)
  %useful = icmp ne i64 %chunks, 0
  %rest = load i64, ptr %budget
  %renewed = select i1 %useful, i64 $spins, i64 %rest       ; who finds no work for long goes to sleep
  store i64 %renewed, ptr %budget
  br label %out
out:
  %left = call i64 @signal(ptr @gate, i64 -1, i64 0)
  br label %wait
end:
  ret ptr null
}

; Fills in slots 3, 4, 6 and 7 for so many threads and returns the most chunks that a step has.
define internal i64 @prepare(ptr %steps, i64 %count, i64 %threads) {
entry:
  br label %step
step:
  %index = phi i64 [0, %entry], [%next, %step]
  %most = phi i64 [0, %entry], [%more, %step]
  %at = getelementptr [$slots x i64], ptr %steps, i64 %index
  %tasks_at = getelementptr i64, ptr %at, i64 2
  %chunk_at = getelementptr i64, ptr %at, i64 3
  %chunks_at = getelementptr i64, ptr %at, i64 4
  %finished_at = getelementptr i64, ptr %at, i64 6
  %asleep_at = getelementptr i64, ptr %at, i64 7
  %tasks = load i64, ptr %tasks_at
  %wanted = load i64, ptr %chunk_at
  %a_run_each = icmp eq i64 %wanted, 0
  %above = add i64 %tasks, %threads
  %below = sub i64 %above, 1
  %shared = udiv i64 %below, %threads
  %share = call i64 @llvm.umax.i64(i64 %shared, i64 1)
  %chunk = select i1 %a_run_each, i64 %share, i64 %wanted
  store i64 %chunk, ptr %chunk_at
  %up = add i64 %tasks, %chunk
  %last = sub i64 %up, 1
  %chunks = udiv i64 %last, %chunk
  store i64 %chunks, ptr %chunks_at
  store i64 0, ptr %finished_at
  store i64 0, ptr %asleep_at
  %more = call i64 @llvm.umax.i64(i64 %most, i64 %chunks)
  %next = add i64 %index, 1
  %again = icmp ult i64 %next, %count
  br i1 %again, label %step, label %end
end:
  ret i64 %more
}

; Nothing of any share is handed out yet: fills in slot 5, of so many lines for each step.
define internal void @deal(ptr %steps, i64 %count, ptr %lines, i64 %shares) {
entry:
  %all = mul i64 %count, %shares
  br label %line
line:
  %i = phi i64 [0, %entry], [%next_line, %line]
  %given_at = getelementptr [8 x i64], ptr %lines, i64 %i
  store i64 0, ptr %given_at
  %next_line = add i64 %i, 1
  %more_lines = icmp ult i64 %next_line, %all
  br i1 %more_lines, label %line, label %step
step:
  %index = phi i64 [0, %line], [%next, %step]
  %first = mul i64 %index, %shares
  %first_line = getelementptr [8 x i64], ptr %lines, i64 %first
  %at = getelementptr [$slots x i64], ptr %steps, i64 %index
  %lines_at = getelementptr i64, ptr %at, i64 5
  store ptr %first_line, ptr %lines_at
  %next = add i64 %index, 1
  %more_steps = icmp ult i64 %next, %count
  br i1 %more_steps, label %step, label %end
end:
  ret void
}

; Every step as one range, on this thread.
define internal void @alone(ptr %steps, i64 %count) {
entry:
  br label %step
step:
  %index = phi i64 [0, %entry], [%next, %after]
  %at = getelementptr [$slots x i64], ptr %steps, i64 %index
  %fields_at = getelementptr i64, ptr %at, i64 1
  %tasks_at = getelementptr i64, ptr %at, i64 2
  %kernel = load ptr, ptr %at
  %fields = load ptr, ptr %fields_at
  %tasks = load i64, ptr %tasks_at
  %some = icmp ne i64 %tasks, 0
  br i1 %some, label %run, label %after
run:
  call void %kernel(ptr %fields, i64 0, i64 %tasks, i64 0)
  br label %after
after:
  %next = add i64 %index, 1
  %again = icmp ult i64 %next, %count
  br i1 %again, label %step, label %end
end:
  ret void
}

; 1 if the pool is ours now.
define i64 @hold() {
  %pair = cmpxchg ptr @owner, i64 0, i64 1 acquire monotonic
  %got = extractvalue {i64, i1} %pair, 1
  %one = zext i1 %got to i64
  ret i64 %one
}

define void @release() {
  store atomic i64 0, ptr @owner release, align 8
  ret void
}

; How many workers there are now.
define void @hire(i64 %count) {
  store atomic i64 %count, ptr @crew release, align 8
  ret void
}

; How many threads a region may have from now on.
define void @allow(i64 %threads) {
  %allowed_at = getelementptr i64, ptr @crew, i64 2
  store atomic i64 %threads, ptr %allowed_at release, align 8
  ret void
}

; Calls (1) or calls off (0) the end of work. The pool must be held.
define void @dismiss(i64 %leave) {
  %leave_at = getelementptr i64, ptr @crew, i64 1
  store atomic i64 %leave, ptr %leave_at seq_cst, align 8
  %n = call i64 @signal(ptr @epoch, i64 1, i64 0)
  ret void
}

; Whether a little region should have workers: while one is awake, or after many that found all asleep, since to wake
; one takes longer than such a region, but not longer than a row of them.
define internal i1 @rouses(i64 %workers) {
entry:
  %asleep_at = getelementptr i64, ptr @epoch, i64 1
  %asleep = load atomic i64, ptr %asleep_at monotonic, align 8
  %some = icmp slt i64 %asleep, %workers
  br i1 %some, label %yes, label %count
count:
  %before_at = getelementptr i64, ptr @crew, i64 3
  %before = load atomic i64, ptr %before_at monotonic, align 8
  %now = add i64 %before, 1
  store atomic i64 %now, ptr %before_at monotonic, align 8  ; one that another thread loses is no loss
  %many = icmp uge i64 %now, $row
  br i1 %many, label %yes, label %no
yes:
  %reset_at = getelementptr i64, ptr @crew, i64 3
  store atomic i64 0, ptr %reset_at monotonic, align 8
  ret i1 true
no:
  ret i1 false
}

define void @run_steps(ptr %steps, i64 %count, i64 %threads) {
  call void @run_region(ptr %steps, i64 %count, i64 %threads, i64 1)
  ret void
}

; Runs steps on this thread and up to threads - 1 workers; `wakes` is 0 if the region is too little to wake one.
define internal void @run_region(ptr %steps, i64 %count, i64 %threads, i64 %wakes) {
entry:
  %budget = alloca i64
  store i64 $spins, ptr %budget
  %control = call i64 @get_control()
  call void @set_control(i64 $flush)
  %chunks = call i64 @prepare(ptr %steps, i64 %count, i64 %threads)
  %slots = call i64 @llvm.umin.i64(i64 %threads, i64 %chunks)
  %single = icmp ule i64 %slots, 1
  br i1 %single, label %serial, label %ask
ask:
  %workers = load atomic i64, ptr @crew monotonic, align 8
  %nobody = icmp eq i64 %workers, 0
  br i1 %nobody, label %serial, label %weigh
weigh:
  %little = icmp eq i64 %wakes, 0
  br i1 %little, label %look, label %get
look:
  %worth = call i1 @rouses(i64 %workers)
  br i1 %worth, label %get, label %serial
get:
  %held = call i64 @hold()
  %got = icmp ne i64 %held, 0
  br i1 %got, label %parallel, label %serial
serial:
  call void @alone(ptr %steps, i64 %count)
  br label %end
parallel:
  %steps_at = getelementptr i64, ptr @region, i64 0
  %count_at = getelementptr i64, ptr @region, i64 1
  %slots_at = getelementptr i64, ptr @region, i64 2
  %given_at = getelementptr i64, ptr @region, i64 3
  %needed = mul i64 %count, %slots
  %lines = alloca [8 x i64], i64 %needed, align 64
  call void @deal(ptr %steps, i64 %count, ptr %lines, i64 %slots)
  store ptr %steps, ptr %steps_at
  store i64 %count, ptr %count_at
  store i64 %slots, ptr %slots_at
  store i64 1, ptr %given_at
  %core_at = getelementptr i64, ptr @region, i64 4
  %core = call i32 @sched_getcpu()
  store i32 %core, ptr %core_at
  store atomic i64 $open, ptr @gate release, align 8
  %helpers = sub i64 %slots, 1
  %excess = sub i64 %workers, %helpers
  %spare = call i64 @llvm.smax.i64(i64 %excess, i64 0)
  %now = call i64 @signal(ptr @epoch, i64 1, i64 %spare)
  %mine = call i64 @work(ptr %steps, i64 %count, i64 0, i64 0, i64 %slots)
  %before = atomicrmw sub ptr @gate, i64 $open acq_rel
  %others = sub i64 %before, $open
  br label %check
check:
  %inside = phi i64 [%others, %parallel], [%fewer, %wait]
  %empty = icmp eq i64 %inside, 0
  br i1 %empty, label %close, label %wait
wait:
  %fewer = call i64 @await(ptr @gate, i64 %inside, ptr %budget)
  br label %check
close:
  call void @release()
  br label %end
end:
  call void @set_control(i64 %control)
  ret void
}

define void @run(ptr %kernel, ptr %fields, i64 %tasks, i64 %chunk, i64 %threads) {
  %step = alloca [$slots x i64], align 64
  %fields_at = getelementptr i64, ptr %step, i64 1
  %tasks_at = getelementptr i64, ptr %step, i64 2
  %chunk_at = getelementptr i64, ptr %step, i64 3
  store ptr %kernel, ptr %step
  store ptr %fields, ptr %fields_at
  store i64 %tasks, ptr %tasks_at
  store i64 %chunk, ptr %chunk_at
  call void @run_steps(ptr %step, i64 1, i64 %threads)
  ret void
}
"""

_DECLARED = """
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i1024 @llvm.ctpop.i1024(i1024)
"""


def pool_text(machine: Machine, *, futex: bool, spins: int) -> str:
    """LLVM text of the pool, or of ``call`` alone for a system without futexes. ``spins``: pauses before a sleep."""
    text = Template(machine.text + _CALL + (_POOL + BOUND + _DECLARED if futex else ""))
    return text.substitute(
        futex=machine.futex,
        flush=machine.flush,
        spins=spins,
        slots=STEP_SLOTS,
        row=_ROW,
        open=1 << 32,
        workspace=WORKSPACE,
        stack=STACK_BYTES,
        **LAYOUT,
    )
