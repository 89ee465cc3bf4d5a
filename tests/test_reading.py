"""Reading from disk: only regular files, only strict JSON, and only the declared shape."""

import errno
import io
import os
import socket
import struct
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired
from unittest.mock import Mock

import numpy as np
import pytest
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from harness.core.arrays import mapped_array, read_array, read_arrays
from harness.core.config import override, parse_assignments
from harness.core.errors import ConfigError, UserError
from harness.core.files import last_line, read_json, read_lines
from harness.core.reading import Damaged, bytes_of, parse, shaped, short
from harness.runs.config import RunConfig

NOT_JSON = {
    b"": "not valid JSON",
    b"[1": "not valid JSON",
    b"\xff\xfe": "UTF-8",
    b"NaN": "NaN",
    b'{"a": -Infinity}': "-Infinity",
    b"1e999": "1e999",
    b'{"a": 1, "a": 2}': "'a' twice",
    b'{"a": "\\":", "b" : 1, "b": 2}': "'b' twice",
    b'{"b" : 1, "b": 2}': "'b' twice",
    b'{"b"\t:1,"b":2}': "'b' twice",
    b'{"a": "\\u0022:", "b": 1, "b": 2}': "'b' twice",
    b'[{"b": {"c": 1, "c": 1}}]': "'c' twice",
    b"9" * 5000: "too many digits",
    b"[" * 100_000: "too deep",
    b"[" * 101 + b"]" * 101: "too deep",
    b'{"a":' * 2000 + b"1" + b"}" * 2000: "too deep",
}


class Shape(TypedDict):
    count: Annotated[int, Field(ge=0, lt=2**63)]
    values: dict[str, list[FiniteFloat]]
    kind: Literal["a", "b"]
    note: NotRequired[str | None]


def shapes(**changes: Any) -> dict[str, Any]:
    return {"count": 1, "values": {"x": [1, 2.5]}, "kind": "a", **changes}


def test_only_strict_json_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    for text, said in NOT_JSON.items():
        with pytest.raises(Damaged, match=said):
            parse(text)
        path.write_bytes(text)
        with pytest.raises(UserError, match=rf"^{path}: cannot be read \(.*{said}.*\)\. Do that\.$") as caught:
            read_json(path, remedy="Do that.")
        assert "\n" not in str(caught.value)
    assert parse(b"[" * 100 + b"]" * 100)
    assert parse('{"a": [1, 2.5, null, "\\ud800"]}') == {"a": [1, 2.5, None, "\ud800"]}


def test_a_value_of_another_shape_is_damaged() -> None:
    for right in (shapes(), shapes(note=None), shapes(note="x", further=[1])):
        assert shaped(right, Shape) is right
    wrong: dict[str, Any] = {
        "it is 0, but should be a valid dictionary": 0,
        "its entry count is True, but should be a valid integer": shapes(count=True),
        "its entry count is -1, but should be greater than or equal to 0": shapes(count=-1),
        "its entry count is 9223372036854775808, but should be less": shapes(count=2**63),
        "its entry values is \\[\\], but should be a valid dictionary": shapes(values=[]),
        "its entry values.x is 1, but should be a valid list": shapes(values={"x": 1}),
        "its entry values.x.1 is '2', but should be a valid number": shapes(values={"x": [1, "2"]}),
        "its entry values.x.0 is inf, but should be a finite number": shapes(values={"x": [float("inf")]}),
        "its entry kind is 'c', but should be 'a' or 'b'": shapes(kind="c"),
        "its entry note is 3, but should be a valid string": shapes(note=3),
        "its entry count is missing": {"values": {}, "kind": "a"},
    }
    for said, value in wrong.items():
        with pytest.raises(Damaged, match=said):
            shaped(value, Shape)
    assert shaped(float("nan"), float) != 0
    with pytest.raises(Damaged, match="should be a valid number"):  # too large for an integer
        shaped(10**400, float)


def test_a_damaged_line_is_skipped_and_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n[]\n{"step": 2, "x": NaN}\n{"st\n\xff\n{"step": "3"}\n{"step": 4')
    step = dict[str, float]
    for _ in range(2):
        assert [line["step"] for line in read_lines(path, step)] == [1, 2]
        assert last_line(path, step) == {"step": 2, "x": pytest.approx(float("nan"), nan_ok=True)}
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" is damaged")[0] for line in said] == [f"{path}: line {n}" for n in (2, 4, 5, 6)]
    path.write_bytes(b"\xff\n\xff\n")
    assert (read_lines(path), last_line(path)) == ([], None)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Opening a pipe waits for a writer, and there is none."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        kinds = {"pipe": "a named pipe", "folder": "a folder", "socket": "a socket"}
        places = {tmp_path / name: said for name, said in kinds.items()} | {Path("/dev/zero"): "a device"}
        for place, said in places.items():
            for read in (bytes_of, read_array, mapped_array, read_arrays):
                with pytest.raises(Damaged, match=f"it is {said}, not a file"):
                    read(place)
            for look in (read_json, read_lines, last_line):
                with pytest.raises(UserError, match=rf"^{place}: cannot be read \(it is {said}"):
                    look(place)


def test_a_file_is_not_read_where_it_is_larger_than_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2000)
    assert len(bytes_of(tmp_path / "file", most=2000)) == 2000
    with pytest.raises(Damaged, match=r"^it has 2,000 bytes, more than 1,999$"):
        bytes_of(tmp_path / "file", most=1999)


def test_arrays_that_the_system_does_not_give_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "arrays.npz").touch()
    for error in (PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")):
        monkeypatch.setattr(zipfile, "ZipFile", Mock(side_effect=error))
        with pytest.raises(OSError, match=error.strerror) as caught:
            read_arrays(tmp_path / "arrays.npz")
        assert caught.value is error


def header(shape: tuple[int, ...], behind: bytes = b"", **fields: Any) -> bytes:
    said = {"descr": "|u1", "fortran_order": False, "shape": shape, **fields}
    text = repr(said).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + behind


FALSE_HEADERS = {
    "a terabyte": header((10**12,)),
    "more than follows": header((3,), b"12"),
    "less than follows": header((3,), b"1234"),
    "negative": header((-3,), b"123"),
    "no flag": header((2,), b"12", fortran_order=7),
    "no type": header((2,), b"12", descr="x9"),
    "objects": header((1,), b"12345678", descr="|O"),
    "brackets": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "longer than the file": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "another version": b"\x93NUMPY\x09\x00" + b" " * 90,
    "no array": b"no array",
    "empty": b"",
}


DAMAGES = {
    "a terabyte": "its header says .* 1,000,000,000,000 bytes, but 0 bytes follow",
    "more than follows": "3 bytes, but 2 bytes follow",
    "less than follows": "3 bytes, but 4 bytes follow",
    "negative": "its header says",
    "objects": "pickled",
    "another version": "version",
}
"""Expected messages; all other damages give the message that there is no header."""


def test_a_false_header_of_an_array_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for name, content in FALSE_HEADERS.items():
        path.write_bytes(content)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("images.npy", content)
        for read in (read_array, mapped_array, lambda _, whole=packed: read_arrays(whole.getvalue())):
            with pytest.raises(Damaged, match=DAMAGES.get(name, "it does not begin with a valid .npy header")):
                read(path)
    path.write_bytes(header((2,), b"12"))
    np.testing.assert_array_equal(read_array(path), [49, 50])


def test_damaged_archives_of_every_method_are_damaged() -> None:
    """Random changed bytes give the same arrays or `Damaged`, and no other error."""
    rng = np.random.default_rng(0)
    array = io.BytesIO()
    np.save(array, rng.integers(0, 5, (20, 8, 8, 1), dtype=np.uint8))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.writestr("images.npy", array.getvalue())
        assert read_arrays(packed.getvalue())["images"].shape == (20, 8, 8, 1)
        found = 0
        for _ in range(100):
            content = bytearray(packed.getvalue())
            for place in rng.integers(0, len(content), 4):
                content[place] = rng.integers(256)
            try:
                read_arrays(bytes(content[: rng.integers(1, 2 * len(content))]))
            except Damaged:
                found += 1
        assert found > 60


def test_hostile_settings_get_one_short_line(tiny: RunConfig) -> None:
    typed = {
        "train.steps=" + "9" * 5000: "expected a whole number",
        "evaluate.nfe=[" + "9" * 5000 + "]": "too many digits",
        "weighting=" + "[" * 100_000: "too deep",
        'weighting={"name":"uniform","name":"uniform"}': "'name' twice",
        'dataset={"name":"npz",}': "not valid JSON",
        "evaluate.nfe=[1,2": "not valid JSON",
        "weighting=" + '{"name":' * 60 + "1" + "}" * 60: "expected a weighting",
        "dataset=" + "x" * 9000: "is not a known dataset",
        "train.precision=" + "x" * 9000: "is not a choice",
    }
    for text, said in typed.items():
        with pytest.raises(ConfigError, match=said) as caught:
            override(tiny, parse_assignments([text]))
        assert len(str(caught.value)) < 400
        assert str(caught.value).startswith(text.partition("=")[0])
    assert short(10**5000) == "a int too large to be written out"
