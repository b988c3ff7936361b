"""Object code that needs no linker: its sections side by side, whose references to each other are already filled in.

LLVM's x86-64 code finds its own sections by distances, so what is laid out once may lie anywhere: to load it is to copy
it. An object that names anything beyond itself, or has data to write, is none of these.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

_ELF64 = b"\x7fELF\x02\x01"
_X86_64 = 62
_HEADER, _SECTION, _SYMBOL, _RELOCATION = (
    struct.Struct(layout) for layout in ("<18xH20xQ10xHH", "<IIQ8xQQIIQ8x", "<IBBHQ8x", "<QQq")
)
_CONTENTS, _SYMBOLS, _FILLED_IN = 1, 2, 4  # kinds of sections
_WRITABLE, _LOADED = 1, 2  # their flags
_BASE = "_GLOBAL_OFFSET_TABLE_"  # what distances are counted from; here the image's beginning
# By kind of relocation: the layout of what is filled in, and whether it is counted from there, or from the base.
_DISTANCES = {2: ("<i", True), 4: ("<i", True), 24: ("<q", True), 25: ("<q", False), 29: ("<q", True)}


class Image(NamedTuple):
    """Code for any place that is aligned to a page, and where its functions start in it."""

    code: bytes
    entries: dict[str, int]


class _Section(NamedTuple):
    """As in the object's table."""

    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


def image_of(binary: bytes, names: Sequence[str]) -> Image | None:
    """An object with the functions of those names; None if only a linker can load it."""
    if not binary.startswith(_ELF64):
        return None
    machine, table, size, count = _HEADER.unpack_from(binary)
    if machine != _X86_64:
        return None
    sections = [_Section(*_SECTION.unpack_from(binary, table + k * size)) for k in range(count)]
    places, code = _laid_out(binary, sections)
    symbols = next(([*_symbols(binary, s, sections, places)] for s in sections if s.kind == _SYMBOLS), [])
    if code is None or not _filled_in(code, binary, sections, places, [at for _, at in symbols]):
        return None
    entries = {name: at for name, at in symbols if at is not None}
    return Image(bytes(code), {name: entries[name] for name in names})


def _laid_out(binary: bytes, sections: Sequence[_Section]) -> tuple[dict[int, int], bytearray | None]:
    """Where each section that is loaded starts, by number, and all of them; no code where one is to be written."""
    places, code = {}, bytearray()
    for number, section in enumerate(sections):
        if section.flags & _WRITABLE and section.size:
            return {}, None
        if section.kind == _CONTENTS and section.flags & _LOADED:
            code += bytes(-len(code) % max(1, section.align))
            places[number] = len(code)
            code += binary[section.offset : section.offset + section.size]
    return places, code


def _symbols(
    binary: bytes, table: _Section, sections: Sequence[_Section], places: dict[int, int]
) -> Iterator[tuple[str, int | None]]:
    """Every symbol's name, and where it lies in the image; None if it does not."""
    for name, _, _, section, value in _SYMBOL.iter_unpack(binary[table.offset : table.offset + table.size]):
        start = sections[table.link].offset + name
        word = binary[start : binary.index(b"\0", start)].decode()
        yield word, 0 if word == _BASE else places[section] + value if section in places else None


def _filled_in(
    code: bytearray, binary: bytes, sections: Sequence[_Section], places: dict[int, int], symbols: Sequence[int | None]
) -> bool:
    """Fills in all distances; whether that was possible."""
    for section in sections:
        if section.kind == _FILLED_IN and section.info in places:
            rows = binary[section.offset : section.offset + section.size]
            for offset, what, more in _RELOCATION.iter_unpack(rows):
                at, target = places[section.info] + offset, symbols[what >> 32]
                if target is None or what & 0xFFFFFFFF not in _DISTANCES:
                    return False
                layout, from_there = _DISTANCES[what & 0xFFFFFFFF]
                struct.pack_into(layout, code, at, target + more - (at if from_there else 0))
    return True


def load(image: Image) -> dict[str, int]:
    """Addresses of its functions, in memory that is theirs for as long as the process lives and is not written again.

    Raises: OSError if the system does not give any.
    """
    size = len(image.code)
    place = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    place.write(image.code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(place))
    if _libc().mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "memory cannot be made executable")
    _loaded.append(place)
    return {name: start + offset for name, offset in image.entries.items()}


_loaded: list[mmap.mmap] = []  # addresses in it go everywhere


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
