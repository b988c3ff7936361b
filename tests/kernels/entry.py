"""Entry points for tests, as LLVM text."""

from __future__ import annotations


def entry(name: str, *fields: str, body: str) -> str:
    """An entry point whose body finds its fields by name: each is a type and a name, ``"ptr counts"``.

    The body is one task, ``%i``; its text ends where the next task begins.
    """
    read = ""
    for place, field in enumerate(fields):
        kind, named = field.split()
        read += f"  %{named}_at = getelementptr i64, ptr %fields, i64 {place}\n"
        read += f"  %{named} = load {kind}, ptr %{named}_at\n"
    return f"""
define void @{name}(ptr %fields, i64 %begin, i64 %end, i64 %thread) {{
entry:
{read}  br label %task
task:
  %i = phi i64 [%begin, %entry], [%next, %done]
{body.strip(chr(10))}
  br label %done
done:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %task, label %out
out:
  ret void
}}
"""
