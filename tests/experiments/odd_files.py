"""Contents that no command of ours writes: JSON, Parquet and safetensors files, by what is odd."""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import parquet

from lrat.files.write import CHECKSUM

_VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a text": "x",
    "a control character": "\x1b[31m\x00",
    "a lone surrogate": "\ud800",
    "-1": -1,
    "2^63": 2**63,
    "1e308": 1e308,
    "-1e308": -1e308,
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[]]],
    "an object of lists": {"x": [1, "y"]},
    "a path": "/dev/zero",
}
_TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda whole: b"[" + whole + b"]",
    "a text": lambda _: b'"x"',
    "a number": lambda _: b"3",
    "an empty object": lambda _: b"{}",
    "the first half": lambda whole: whole[: len(whole) // 2],
    "all but the last brace": lambda whole: whole.rstrip()[:-1],
    "a comma too many": lambda whole: whole.rstrip()[:-1] + b",}",
    "twice itself": lambda whole: whole + whole,
    "a byte order mark": lambda whole: b"\xef\xbb\xbf" + whole,
    "UTF-16": lambda whole: whole.decode().encode("utf-16"),
    "no UTF-8": lambda whole: whole.replace(b'"', b'"\xff', 1),
    "zeros": lambda whole: bytes(len(whole)),
    "a zero in a text": lambda whole: whole.replace(b'"', b'"\x00', 1),
    "a line end in a text": lambda whole: whole.replace(b'"', b'"\n', 1),
    "a key twice": lambda whole: whole.rstrip()[:-1] + b', "x": 1, "x": 2}',
    "NaN": lambda whole: whole.rstrip()[:-1] + b', "x": NaN}',
    "infinity": lambda whole: whole.rstrip()[:-1] + b', "x": -Infinity}',
    "1e999": lambda whole: whole.rstrip()[:-1] + b', "x": 1e999}',
    "5,000 digits": lambda whole: whole.rstrip()[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    "100,000 lists": lambda _: b"[" * 100_000,
    "900 lists": lambda _: b'{"x": ' + b"[" * 900 + b"]" * 900 + b"}",
    "90 lists": lambda whole: b'{"x": ' + b"[" * 90 + b"]" * 90 + b"," + whole.lstrip()[1:],
    "another checksum": lambda whole: whole.replace(b'"checksum": "', b'"checksum": "0'),
    "a checksum of nothing": lambda _: b'{"checksum": null}',
}


def odd_json(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file that holds the JSON object ``whole`` may hold instead. Values are replaced in
    objects without a checksum, as earlier versions wrote them."""
    for what, make in _TEXTS.items():
        yield what, make(whole)
    value = {key: each for key, each in json.loads(whole).items() if key != CHECKSUM}
    for path in _paths(value):
        name = ".".join(map(str, path))
        yield f"without {name}", json.dumps(_replaced(value, path, None, remove=True)).encode()
        for what, other in _VALUES.items():
            yield f"{what} as {name}", json.dumps(_replaced(value, path, other)).encode()


def _paths(value: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """Where values stand, of a list the first alone."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)[:12]
    else:
        keys = [0] if isinstance(value, list) and value else []
    for key in keys:
        yield (key,)
        if depth > 1:
            yield from ((key, *path) for path in _paths(value[key], depth - 1))


def _replaced(value: Any, path: tuple[Any, ...], other: Any, *, remove: bool = False) -> Any:
    copy = value.copy()
    key, *rest = path
    if rest:
        copy[key] = _replaced(value[key], tuple(rest), other, remove=remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = other
    return copy


def odd_parquet(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file that holds the table ``whole`` may hold instead."""
    table = parquet.read_table(io.BytesIO(whole))
    names, first = table.column_names, table.column_names[0]
    yield "nothing", b""
    yield "the first half", whole[: len(whole) // 2]
    yield "without its last bytes", whole[:-6]
    yield "a text", b"PAR1 PAR1"
    yield "zeros between the marks", b"PAR1" + bytes(200) + b"PAR1"
    bare = table.replace_schema_metadata(None)
    made = {
        "no rows": bare.slice(0, 0),
        "no columns": arrow.table({}),
        "another table": arrow.table({"x": [1, 2]}),
        "rows twice": arrow.concat_tables([bare, bare]),
        "a checksum that is none": table.replace_schema_metadata({CHECKSUM: "x"}),
        "a checksum of a list": table.replace_schema_metadata({CHECKSUM: "[1]"}),
        "a checksum that is no text": table.replace_schema_metadata({CHECKSUM: b"\xff\xfe"}),
        "a column twice": arrow.Table.from_arrays([bare[first], bare[first]], names=[first, first]),
    }
    for name in names:
        place, values = names.index(name), bare[name].to_pylist()
        made[f"without {name}"] = bare.drop_columns([name])
        others = {
            "texts": ["x"] * len(values),
            "nulls": arrow.nulls(len(values)),
            "lists": [[1, 2]] * len(values),
            "negative numbers": [-(2**62)] * len(values),
            "no numbers": [float("nan")] * len(values),
            "dates": arrow.array([0] * len(values), arrow.timestamp("s")),
            "bytes": [b"\xff"] * len(values),
        }
        for what, column in others.items():
            made[f"{what} as {name}"] = bare.set_column(place, name, [column])
    for what, each in made.items():
        stream = io.BytesIO()
        parquet.write_table(each, stream)
        yield what, stream.getvalue()


def _safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def odd_safetensors(whole: bytes, beside: str) -> Iterator[tuple[str, bytes]]:
    """What a file that holds the tensors ``whole`` may hold instead; ``beside``: the key of what is
    no tensor."""
    size = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    name = next(key for key in header if key != "__metadata__")
    yield "nothing", b""
    yield "seven bytes", whole[:7]
    yield "the first half", whole[: len(whole) // 2]
    yield "one byte more", whole + b"\0"
    yield "one byte less", whole[:-1]
    yield "a header of 2^63 bytes", struct.pack("<Q", 2**63) + whole[8:]
    yield "a header beyond the file", struct.pack("<Q", len(whole)) + whole[8:]
    yield "a pickle", pickle.dumps({"x": np.zeros(3)})
    yield "an archive", b"PK\x03\x04" + bytes(100)
    for what, text in {
        "no JSON": b"x",
        "no UTF-8": b'{"\xff": 1}',
        "a list": b"[]",
        "a text": b'"x"',
        "a number": b"3",
        "null": b"null",
        "an empty object": b"{}",
        "900 lists": b"[" * 900 + b"]" * 900,
        "a tensor twice": json.dumps(header).encode()[:-1] + b"," + json.dumps(header).encode()[1:],
    }.items():
        yield f"a header of {what}", _safetensors(text, data)
    for what, about in {
        "null": None,
        "a list": [1],
        "without a type": {"shape": [1], "data_offsets": [0, 4]},
        "of an unknown type": header[name] | {"dtype": "F1"},
        "of another type": header[name] | {"dtype": "I32"},
        "with a shape of one number": header[name] | {"shape": 4},
        "with a negative shape": header[name] | {"shape": [-1, 4]},
        "with 10^18 numbers": header[name] | {"shape": [10**9, 10**9]},
        "with another shape": header[name] | {"shape": [1, 1, *header[name]["shape"]]},
        "that ends before it begins": header[name] | {"data_offsets": [8, 0]},
        "that ends beyond the file": header[name] | {"data_offsets": [0, 2**60]},
        "with texts as places": header[name] | {"data_offsets": ["0", "4"]},
        "with three places": header[name] | {"data_offsets": [0, 4, 8]},
    }.items():
        yield f"a tensor {what}", _safetensors(header | {name: about}, data)
    yield "a tensor fewer", _safetensors({k: v for k, v in header.items() if k != name}, data)
    yield "no number", _safetensors(header, b"\xff" * len(data))
    for what, text in {
        "no JSON": "x",
        "a list": "[1]",
        "a number": "3",
        "an unknown type": '{"x": {"dtype": "nonsense"}}',
        "bytes that are none": '{"x": {"bytes": "zz"}}',
        "pairs that are none": '{"x": {"pairs": 3}}',
        "pairs of lists": '{"x": {"pairs": [[[1], 2]]}}',
        "an unknown tensor": '{"x": {"tensor": "y"}}',
        "two kinds at once": '{"x": {"tensor": "y", "tuple": []}}',
        "nothing": '{"x": {}}',
        "90 lists": f'{{"x": {"[" * 90}{"]" * 90}}}',
        "900 lists": f'{{"x": {"[" * 900}{"]" * 900}}}',
    }.items():
        yield (
            f"beside tensors {what}",
            _safetensors(header | {"__metadata__": {beside: text}}, data),
        )
    yield "metadata of a number", _safetensors(header | {"__metadata__": 3}, data)
    yield "metadata of numbers", _safetensors(header | {"__metadata__": {beside: 3}}, data)


def with_digest(whole: bytes, weights: bytes) -> bytes:
    """``model.json`` with the digest of ``weights``, so that they are read whatever they are."""
    value: Mapping[str, Any] = json.loads(whole)
    kept = {key: each for key, each in value.items() if key != CHECKSUM}
    return json.dumps({**kept, "sha256": hashlib.sha256(weights).hexdigest()}).encode()
