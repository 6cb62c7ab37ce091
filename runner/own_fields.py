"""Tables of a config whose fields belong to one task or model: read into a struct, with one clear line for each mistake."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

import msgspec

from memdash.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)


def read_fields(kind: type[T], given: dict[str, Any], table: str, owner: str) -> T:
    """`given` as a `kind`; `table` and `owner` are for the message. Raises UsageError."""
    known = kind.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
            raise UsageError(f"{table}.{name}: {owner} has no such field", hint=hint)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise UsageError(f"{table}.{name} = {given.get(name)!r}: {message[0].lower()}{message[1:]}") from None
