"""Texts that a YAML or JSON parser refuses, or that grow beyond all measure when read."""


def bomb(leaf: str = "x", levels: str = "bcdefg") -> str:
    """Aliases of aliases: 500 bytes that stand for ten million values."""
    lines, last = [f"a: &a [{', '.join([leaf] * 10)}]"], "a"
    for name in levels:
        lines.append(f"{name}: &{name} [{', '.join([f'*{last}'] * 10)}]")
        last = name
    return "\n".join([*lines, f"seed: *{last}"])


REFUSED_YAML = {
    "month 99": "lr: 2001-99-99",
    "day 30 of February": "lr: 2001-02-30",
    "hour 25": "lr: 2001-01-01 25:00:00",
    "minute 61": "lr: 2001-01-01T00:61:00Z",
    "offset beyond a day": "lr: 2001-01-01 00:00:00 +99:00",
    "empty integer": "lr: !!int ''",
    "integer of a word": "lr: !!int x",
    "integer of a sign": "lr: !!int '-'",
    "integer of a colon": "lr: !!int ':'",
    "binary integer": "lr: !!int 0b2",
    "hexadecimal integer": "lr: !!int 0xg",
    "empty float": "lr: !!float ''",
    "float of a word": "lr: !!float x",
    "float of signs": "lr: !!float '--'",
    "float of colons": "lr: !!float '1:x'",
    "truth of a word": "lr: !!bool maybe",
    "empty truth": "lr: !!bool ''",
    "time of a word": "lr: !!timestamp x",
    "empty time": "lr: !!timestamp ''",
    "bytes beyond base64": "lr: !!binary ä",
    "bytes of one letter": "lr: !!binary A",
    "integer of a list": "lr: !!int [1]",
    "text of a mapping": "lr: !!str {a: 1}",
    "null of a list": "lr: !!bool [1]",
    "ordered mapping of a word": "lr: !!omap x",
    "ordered mapping of words": "lr: !!omap [x]",
    "pairs of a mapping": "lr: !!pairs {a: b}",
    "set of a word": "lr: !!set x",
    "list of a mapping": "lr: !!seq {a: 1}",
    "mapping of a list": "lr: !!map [1]",
    "integer of 5,000 digits": f"lr: {'9' * 5000}",
    "negative integer of 5,000 digits": f"lr: -{'9' * 5000}",
    "1,000 lists": "[" * 1000,
    "100,000 lists": "[" * 100_000,
    "1,000 closed lists": f"lr: {'[' * 1000}{']' * 1000}",
    "1,000 mappings": "{a: " * 1000,
    "1,000 indented mappings": "\n".join(" " * depth + "a:" for depth in range(1000)),
    "1,000 dashes": "- " * 1000,
    "1,000 questions": "? " * 1000,
    "a bomb": bomb(),
    "a bomb of mappings": bomb("{k: v}"),
    "a bomb of merged mappings": "a: &a {k: 1}\n"
    + "\n".join(
        f"{name}: &{name} {{<<: [{', '.join([f'*{last}'] * 10)}]}}"
        for last, name in zip("abcdef", "bcdefg", strict=True)
    ),
    "20,000 values": f"lr: [{'0,' * 20_000}]",
    "a list that holds itself": "lr: &a [*a]",
    "a mapping that holds itself": "lr: &a {b: *a}",
    "an alias of nothing": "lr: *b",
    "a merged word": "<<: x",
    "a merged list of words": "<<: [x]",
    "a key twice": "seed: 1\nseed: 2",
    "a list as key": "? [a]\n: 1",
    "a mapping as key": "? {a: b}\n: 1",
    "an object": "lr: !!python/object/apply:os.getcwd []",
    "a Python name": "lr: !!python/name:os.getcwd",
    "a tag of nobody": "lr: !nobody x",
    "a tag without a handle": "lr: !x!y z",
    "another version": "%YAML 3.0\n---\nlr: 1",
    "two documents": "seed: 1\n---\nseed: 2",
    "a null character": "lr: \x00",
    "an escape character": "lr: \x1b[31m",
    "a torn mapping": "lr: {a: 1",
    "a torn text": 'lr: "a',
    "a torn escape": 'lr: "\\x1"',
    "an unknown escape": 'lr: "\\q"',
    "a surrogate": 'lr: "\\ud800"',
    "a tab": "a:\n\tb: 1",
    "an at sign": "lr: @x",
    "an equals sign": "lr: =",
}
"""By what is wrong with them. None is plain data in YAML."""

READ_YAML = {
    "numbers as keys": "{1: 2, x: 3}",
    "a date as key": "{2001-01-01: 2}",
    "nothing as key": "{null: 2}",
    "an integer without a text": f"0x{'f' * 6000}",
    "an octal integer without a text": f"0o{'7' * 9000}",
    "a date": "2001-01-01",
    "a time": "2001-01-01T00:00:00Z",
    "bytes": "!!binary aGVsbG8=",
    "a set": "!!set {a, b}",
    "pairs": "!!pairs [a: 1]",
    "an ordered mapping": "!!omap [a: 1]",
    "infinity": ".inf",
    "no number": ".nan",
    "a long text": "x" * 100_000,
    "a long list": f"[{'x,' * 5000}]",
    "a long key": f"{{{'x' * 1000}: 1}}",
    "control characters": '"\\e[31m\\r"',
    "nothing": "",
    "a comment": "# x",
    "two lines": "|\n  a\n  b",
    "99 lists": "[" * 90 + "]" * 90,
}
"""By what they hold: plain data that fits no setting that is a number."""

REFUSED_JSON = {
    "nothing": "",
    "a word": "x",
    "a torn object": '{"a": 1',
    "a torn text": '{"a": "',
    "a torn escape": '{"a": "\\u12"}',
    "a comma too many": '{"a": 1,}',
    "a bare key": "{a: 1}",
    "a control character": '{"a": "\x01"}',
    "an integer of 5,000 digits": f'{{"a": {"9" * 5000}}}',
    "a negative integer of 5,000 digits": f'{{"a": -{"9" * 5000}}}',
    "5,000 lists": "[" * 5000,
    "200,000 lists": "[" * 200_000,
    "100,000 objects": '{"a":' * 100_000,
    "100,000 closed lists": f'{{"a": {"[" * 100_000}{"]" * 100_000}}}',
    "two values": "{} {}",
    "a byte order mark": "\ufeff{}",
}
"""By what is wrong with them."""
