"""The productions that programs are drawn from; :mod:`programs.code_output.generator` uses them.

Types: ``int``, ``str``, ``bool``, ``ints`` (a list of integers), ``strs`` and ``counts`` (a dict of
texts to integers). A hole such as ``<int>`` is filled by an expression of that type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Scope = Mapping[str, str]
"""Variable → its type."""

EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "int": (
        "<atom_int> + <int>", "<atom_int> - <atom_int>", "<atom_int> * <small>", "len(<str>)",
        "<unit_int> // <positive>", "<unit_int> % <positive>", "len(<ints>)", "sum(<ints>)",
        "abs(<int>)", "max(<ints>, default=<small>)", "min(<ints>, default=<small>)",
        "<atom_str>.count(<char>)", "<atom_str>.find(<char>)", "max(<int>, <int>)", "len(<counts>)",
        "sum(x * x for x in <ints>)", "sum(1 for c in <str> if c > <char>)", "len(set(<str>))",
        "sum(i * x for i, x in enumerate(<ints>))", "<atom_counts>.get(<char>, <small>)",
        "(<small> if <bool> else <int>)", "sum(<atom_counts>.values())", "min(<int>, <small>)",
    ),
    "str": (
        "<atom_str> + <atom_str>", "<atom_str>[::-1]", "<atom_str>.upper()", "<atom_str>.title()",
        "<atom_str>[<small>:]", "<atom_str>[:-<positive>]", "<atom_str>[::<positive>]",
        "<atom_str>.replace(<char>, <char>)", "str(<int>)", "''.join(sorted(<str>))",
        "<atom_str>.swapcase()", "<char> * (<unit_int> % 4)", "'-'.join(<strs>)",
        "''.join(c for c in <str> if c != <char>)", "<atom_str>.strip(<char>)",
        "''.join(w[0] for w in <strs> if w)", "<unit_str>.rjust(<width>, '.')",
        "<atom_str> + ':' + str(<atom_int>)", "''.join(dict.fromkeys(<str>))",
        "max(<strs>, default='')",
        "''.join(chr((ord(c) + <small>) % 26 + 97) for c in <str>)",
    ),
    "bool": (
        "<int> > <int>", "<atom_int> % <positive> == <bit>", "<char> in <str>", "<int> in <ints>",
        "<atom_str>.startswith(<char>)", "len(<str>) > <small>", "<atom_str> < <atom_str>",
        "any(x > <small> for x in <ints>)", "all(x < <small> for x in <ints>)", "not <atom_ints>",
        "<atom_int> < <small> or <atom_int> > <small>", "<atom_str> == <atom_str>[::-1]",
        "<bool> and <bool>", "<atom_int> != <small>",
    ),
    "ints": (
        "sorted(<ints>)", "<atom_ints>[::-1]", "<atom_ints> + [<int>]", "<atom_ints>[<small>:]",
        "[x * <small> for x in <ints>]", "[x for x in <ints> if x % <positive> == <bit>]",
        "list(range(<bit>, <unit_int> % 7))", "[len(w) for w in <strs>]",
        "<atom_ints>[::<positive>]", "[ord(c) % <width> for c in <str>]",
        "[a + b for a, b in zip(<ints>, <ints>)]",
        "list(dict.fromkeys(<ints>))", "sorted(<ints>, key=lambda x: (x % <positive>, -x))",
        "[i for i, c in enumerate(<str>) if c == <char>]", "[max(x, <small>) for x in <ints>]",
        "sorted(set(<ints>), reverse=True)", "[<int>, <int>]", "list(<atom_counts>.values())",
    ),
    "strs": (
        "<atom_str>.split(<char>)", "[w.upper() for w in <strs>]", "sorted(<strs>, key=len)",
        "list(<str>)", "[w[::-1] for w in <strs>]", "[w for w in <strs> if len(w) > <bit>]",
        "<atom_strs> + [<str>]", "<atom_strs>[::-1]", "sorted(<strs>)", "[str(x) for x in <ints>]",
        "[c * i for i, c in enumerate(<str>)]", "sorted(<counts>)", "<atom_strs>[<bit>:]",
        "[w.replace(<char>, <char>) for w in <strs>]",
    ),
    "counts": (
        "{c: <atom_str>.count(c) for c in <str>}", "dict(zip(<str>, <ints>))",
        "{w: len(w) for w in <strs>}", "{w: i for i, w in enumerate(<strs>)}",
        "{k: v + <small> for k, v in <atom_counts>.items()}",
        "{k: v for k, v in <atom_counts>.items() if v > <bit>}",
        "dict(sorted(<atom_counts>.items(), key=lambda kv: (kv[1], kv[0])))",
    ),
}  # fmt: skip
"""Type → productions; ``<atom_…>`` is a variable or a constant, ``<unit_…>`` what binds tightly."""

GROWTH: Final[Mapping[str, tuple[str, ...]]] = {
    "int": ("{v} += <near>", "{v} -= <near>", "{v} = ({v} * <positive> + <near>) % <prime>"),
    "str": ("{v} += <piece>", "{v} = <piece> + {v}", "{v} = {v}[1:] + <piece>"),
    "ints": ("{v}.append(<near>)", "{v}.insert(0, <near>)", "{v} = {v}[1:] + [<near>]"),
    "strs": ("{v}.append(<piece>)", "{v} = [<piece>] + {v}"),
    "counts": ("{v}[<piece>] = {v}.get(<piece>, 0) + <near>", "{v}[<piece>] = <near>"),
}
"""What a loop may do to a variable of a type without making it explode."""

KINDS: Final = tuple(sorted(GROWTH))

LOOPS: Final[tuple[tuple[str, Scope], ...]] = (
    ("for {i} in range(<unit_int> % 6):", {"i": "tick"}),
    ("for {i} in range(<positive>, <width>, <positive>):", {"i": "tick"}),
    ("for {x} in <unit_ints>[:8]:", {"x": "tick"}),
    ("for {c} in <unit_str>[:8]:", {"c": "char"}),
    ("for {w} in <unit_strs>[:8]:", {"w": "word"}),
    ("for {i}, {c} in enumerate(<unit_str>[:8]):", {"i": "tick", "c": "char"}),
    ("for {i}, {x} in enumerate(<unit_ints>[:8]):", {"i": "tick", "x": "tick"}),
    ("for {w}, {x} in sorted(<counts>.items())[:8]:", {"w": "word", "x": "tick"}),
)
"""Head of a loop and the variables it binds, which nothing else assigns to."""

READ_ONLY: Final[Scope] = {"tick": "int", "char": "str", "word": "str"}
"""Type of a loop's variable → as what it may be used."""

BRIDGES: Final[Mapping[str, Scope]] = {
    "int": {"str": "len({0})", "ints": "sum({0})", "strs": "len({0})", "counts": "len({0})"},
    "str": {"int": "str({0})", "ints": "''.join(map(str, {0}))", "strs": "''.join({0})"},
    "ints": {
        "int": "list(range({0} % 7))",
        "str": "[ord(c) % 10 for c in {0}]",
        "strs": "[len(w) for w in {0}]",
        "counts": "list({0}.values())",
    },
    "strs": {"int": "list(str({0}))", "str": "list({0})", "counts": "sorted({0})"},
    "counts": {
        "str": "{{c: {0}.count(c) for c in {0}}}",
        "ints": "{{str(x): x for x in {0}}}",
        "strs": "{{w: len(w) for w in {0}}}",
    },
}
"""Type → other type → how to make the first of a variable of the other."""

CONSTANTS: Final[Mapping[str, tuple[str, ...]]] = {
    "small": tuple(map(str, range(2, 10))),
    "positive": ("2", "3", "4", "5"),
    "bit": ("0", "1"),
    "width": tuple(map(str, range(7, 15))),
    "prime": ("11", "17", "23", "31", "97"),
    "char": tuple(repr(c) for c in "aeilnorst "),
}
WORDS: Final = (
    "anna", "banana", "cedar", "delta", "eraser", "forest", "garden", "hello", "island", "jungle",
    "kettle", "lantern", "mirror", "noon", "orange", "pepper", "quartz", "river", "sister",
    "tomato", "umbrella", "velvet", "winter", "yellow", "zebra",
)  # fmt: skip
