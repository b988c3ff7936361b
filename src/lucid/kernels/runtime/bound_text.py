"""Bound regions as LLVM text: a region whose fields are fixed but for the arrays, which native code reads itself.

Part of the pool's text, whose ``run_region`` it calls.
"""

from __future__ import annotations

# Beside the position of an array: what a field of a bound region is relative to.
WORKSPACE, NOTHING = -1, -2

STACK_BYTES = 128 << 10  # of workspace that a bound region has on its caller's stack

BOUND = """
; Runs a bound region (`bound` is the tuple that threads.Launched describes, the record's layout is in launch.py) on
; the `there` NumPy arrays among `items`. The fields are this call's own, on its stack, and so is the workspace, if none
; is given: `spare` bytes. To read the arrays' addresses here costs a tenth of what it takes from Python. If an item
; that it needs is not there, or is no plain C-contiguous array, nothing runs and its place is returned; else -1.
define internal i64 @launch_on(ptr %bound, ptr %items, i64 %there, ptr %given, i64 %spare, i64 %threads) {
entry:
  %record = call ptr @numbers(ptr %bound)
  %class_at = getelementptr i8, ptr %bound, i64 $second_item
  %class = load ptr, ptr %class_at
  %sizes_at = getelementptr i64, ptr %record, i64 1
  %sources_at = getelementptr i64, ptr %record, i64 2
  %wakes_at = getelementptr i64, ptr %record, i64 6
  %from = getelementptr i64, ptr %record, i64 7
  %count = load i64, ptr %record
  %size = load i64, ptr %sizes_at
  %patched = load i64, ptr %sources_at
  %step_numbers = mul i64 %count, 3
  %sources = getelementptr i64, ptr %from, i64 %step_numbers
  %template = getelementptr i64, ptr %sources, i64 %patched
  %fields = alloca i64, i64 %size, align 64
  %steps = alloca [$slots x i64], i64 %count, align 64
  %own = alloca i8, i64 %spare, align 64
  %none = icmp eq ptr %given, null
  %workspace = select i1 %none, ptr %own, ptr %given
  br label %field
field:
  %i = phi i64 [0, %entry], [%next_i, %write]
  %number_at = getelementptr i64, ptr %template, i64 %i
  %number = load i64, ptr %number_at
  %moves = icmp ult i64 %i, %patched
  br i1 %moves, label %move, label %write
move:
  %source_at = getelementptr i64, ptr %sources, i64 %i
  %source = load i64, ptr %source_at
  %is_array = icmp sge i64 %source, 0
  %is_workspace = icmp eq i64 %source, $workspace
  %other = select i1 %is_workspace, ptr %workspace, ptr null
  br i1 %is_array, label %array, label %moved
array:
  %absent = icmp sge i64 %source, %there
  br i1 %absent, label %wrong, label %present
present:
  %item_at = getelementptr ptr, ptr %items, i64 %source
  %item = load ptr, ptr %item_at
  %type_at = getelementptr i8, ptr %item, i64 $object_type
  %type = load ptr, ptr %type_at
  %usual = icmp eq ptr %type, %class
  br i1 %usual, label %plain, label %wrong
plain:
  %flags_at = getelementptr i8, ptr %item, i64 $array_flags
  %flags = load i32, ptr %flags_at
  %rows = and i32 %flags, 1                                 ; NPY_ARRAY_C_CONTIGUOUS
  %in_order = icmp ne i32 %rows, 0
  br i1 %in_order, label %data, label %wrong
data:
  %data_at = getelementptr i8, ptr %item, i64 $array_data
  %place_of_data = load ptr, ptr %data_at
  br label %moved
moved:
  %base = phi ptr [%other, %move], [%place_of_data, %data]
  %base_number = ptrtoint ptr %base to i64
  %place = add i64 %number, %base_number
  br label %write
write:
  %value = phi i64 [%number, %field], [%place, %moved]
  %field_at = getelementptr i64, ptr %fields, i64 %i
  store i64 %value, ptr %field_at
  %next_i = add i64 %i, 1
  %more_fields = icmp ult i64 %next_i, %size
  br i1 %more_fields, label %field, label %step
step:
  %k = phi i64 [0, %write], [%next_k, %step]
  %to = getelementptr [$slots x i64], ptr %steps, i64 %k
  %fields_to = getelementptr i64, ptr %to, i64 1
  %tasks_to = getelementptr i64, ptr %to, i64 2
  %chunk_to = getelementptr i64, ptr %to, i64 3
  %described = getelementptr [3 x i64], ptr %from, i64 %k
  %tasks_at = getelementptr i64, ptr %described, i64 1
  %chunk_at = getelementptr i64, ptr %described, i64 2
  %kernel = load i64, ptr %described
  %tasks = load i64, ptr %tasks_at
  %chunk = load i64, ptr %chunk_at
  store i64 %kernel, ptr %to
  store ptr %fields, ptr %fields_to
  store i64 %tasks, ptr %tasks_to
  store i64 %chunk, ptr %chunk_to
  %next_k = add i64 %k, 1
  %more_steps = icmp ult i64 %next_k, %count
  br i1 %more_steps, label %step, label %go
go:
  %wakes = load i64, ptr %wakes_at
  call void @run_region(ptr %steps, i64 %count, i64 %threads, i64 %wakes)
  ret i64 -1
wrong:
  ret i64 %source
}

; The numbers of a bound region: the data of the array that comes first in its tuple.
define internal ptr @numbers(ptr %bound) {
  %array_at = getelementptr i8, ptr %bound, i64 $tuple_items
  %array = load ptr, ptr %array_at
  %data_at = getelementptr i8, ptr %array, i64 $array_data
  %data = load ptr, ptr %data_at
  ret ptr %data
}

; A bound region on a tuple of arrays.
define i64 @launch(ptr %bound, ptr %arrays, i64 %there, ptr %given, i64 %spare, i64 %threads) {
  %items = getelementptr i8, ptr %arrays, i64 $tuple_items
  %wrong = call i64 @launch_on(ptr %bound, ptr %items, i64 %there, ptr %given, i64 %spare, i64 %threads)
  ret i64 %wrong
}

declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare ptr @PyLong_FromLong(i64)

; A bound region that finds the workers it may have, and room for its workspace on the stack, as a function of Python's
; own: the interpreter calls it with the arrays as they are, in a tenth of the time of a foreign function. `self` is the
; region's tuple with a callable as its third item, which is given what this cannot do.
define ptr @method(ptr %self, ptr %items, i64 %there) {
entry:
  %record = call ptr @numbers(ptr %self)
  %most_at = getelementptr i64, ptr %record, i64 3
  %shared_at = getelementptr i64, ptr %record, i64 4
  %each_at = getelementptr i64, ptr %record, i64 5
  %most = load i64, ptr %most_at
  %shared = load i64, ptr %shared_at
  %each = load i64, ptr %each_at
  %allowed_at = getelementptr i64, ptr @crew, i64 2
  %allowed = load atomic i64, ptr %allowed_at monotonic, align 8
  %workers = load atomic i64, ptr @crew monotonic, align 8
  %threads = call i64 @llvm.umin.i64(i64 %allowed, i64 %most)
  %known = icmp ne i64 %allowed, 0
  %present = add i64 %workers, 1
  %enough = icmp ule i64 %threads, %present
  %own = mul i64 %threads, %each
  %bytes = add i64 %shared, %own
  %fits = icmp ule i64 %bytes, $stack
  %ready = and i1 %known, %enough
  %can = and i1 %ready, %fits
  br i1 %can, label %run, label %other
run:
  %thread = call ptr @PyEval_SaveThread()
  %wrong = call i64 @launch_on(ptr %self, ptr %items, i64 %there, ptr null, i64 %bytes, i64 %threads)
  call void @PyEval_RestoreThread(ptr %thread)
  %fine = icmp slt i64 %wrong, 0
  br i1 %fine, label %done, label %other
done:
  %number = call ptr @PyLong_FromLong(i64 0)
  ret ptr %number
other:
  %otherwise_at = getelementptr i8, ptr %self, i64 $third_item
  %otherwise = load ptr, ptr %otherwise_at
  %result = call ptr @PyObject_Vectorcall(ptr %otherwise, ptr %items, i64 %there, ptr null)
  ret ptr %result
}
"""

# Where CPython's tuples keep their items and NumPy's arrays the address of their data: in both the first field of
# their own, so a type's size tells, in every build of the interpreter. NumPy's binary interface fixes the others.
_WORD_BYTES = 8
LAYOUT = {
    "object_type": object.__basicsize__ - _WORD_BYTES,  # the last field that all objects have
    "array_data": object.__basicsize__,
    "array_flags": object.__basicsize__ + 6 * _WORD_BYTES,  # after data, dimensions, shape, strides, base and type
    "tuple_items": tuple.__basicsize__,
    "second_item": tuple.__basicsize__ + _WORD_BYTES,
    "third_item": tuple.__basicsize__ + 2 * _WORD_BYTES,
}
