"""Contents of folders and zips: which files count, the notes about the others, and the fingerprint of the content."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.core.errors import UserError
from harness.core.files import results_folder
from harness.core.registry import build
from harness.data import hashes
from harness.data.archive import Archive
from harness.data.base import Data


def encoded(picture: Image.Image, format: str = "png") -> bytes:
    content = io.BytesIO()
    picture.save(content, format)
    return content.getvalue()


def as_npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


PICTURE = encoded(Image.new("RGB", (6, 6), "red"))
TWO = {f"{name}/{i:02d}.png": PICTURE for name in ("cat", "dog") for i in range(20)}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes], slash: str = "/") -> Path:
    """Write a zip with the given names of members, or with names as Windows writes them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", slash)
            archive.writestr(info, content)
    return path


def archive(path: Path) -> Archive:
    return Archive(path, (".png", ".jpg"))


def load_folder(path: Path, name: str = "image_folder") -> Data:
    return build("dataset", {"name": name, "path": str(path), **({"size": 6} if name == "image_folder" else {})}).load()


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """New files count as settled: a test cannot set back the change time of a file."""
    monkeypatch.setattr(hashes, "SETTLED_NS", -(10**12))


def loaded(path: Path) -> tuple[tuple[str, ...], int, object, tuple[str, ...]]:
    data = load_folder(path)
    return data.class_names, len(data.train) + len(data.held_out), data.fingerprint["sha256"], data.notes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".ipynb_checkpoints/00.png", "left out as hidden: .ipynb_checkpoints"),
        ("cat/.thumb.png", "left out as hidden: .thumb.png"),
        ("__MACOSX/cat/00.png", "left out as hidden: __MACOSX"),
        ("dog/@eaDir/00.png/thumb.png", "left out as hidden: @eaDir"),
        ("cat/Thumbs.db", "left out as hidden: Thumbs.db"),
        ("bird/00.heic", "left out: 1 file ending in .heic, in bird"),
        ("labels", "left out: 1 file without an ending"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_files_that_do_not_count_are_reported_and_change_nothing(
    name: str, said: str, zipped: bool, tmp_path: Path
) -> None:
    files = {**TWO, name: PICTURE}
    place = write_zip(tmp_path / "x.zip", files) if zipped else write(tmp_path / "x", files)
    classes, number, fingerprint, notes = loaded(place)
    assert (classes, number, fingerprint) == loaded(write(tmp_path / "plain", TWO))[:3]
    assert said in notes
    assert (classes, number) == (("cat", "dog"), 40)


@pytest.mark.parametrize(
    "holds", [{"bird/00.heic": b"x", "bird/deep/1.txt": b"x"}, {"bird/.hidden.png": b"x"}, {"bird/": b""}]
)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_class_without_a_file_that_counts_is_named(holds: Mapping[str, bytes], zipped: bool, tmp_path: Path) -> None:
    files = {name: content for name, content in holds.items() if zipped or not name.endswith("/")}
    (tmp_path / "x" / "bird").mkdir(parents=True)
    place = write_zip(tmp_path / "x.zip", {**TWO, **files}) if zipped else write(tmp_path / "x", {**TWO, **files})
    assert "left out: bird, in which no file ends in .png, .jpg" in archive(place).left_out()


def test_endings_are_counted_and_many_folders_are_named_in_short(tmp_path: Path) -> None:
    files = {
        f"{i:02d}/{j}.{ending}": PICTURE for i in range(9) for j, ending in enumerate(("png", "txt", "TXT", "json"))
    }
    assert archive(write(tmp_path / "x", files)).left_out() == [
        "left out: 9 files ending in .json, in 00, 01, 02, 03, 04 and 4 more",
        "left out: 18 files ending in .txt, in 00, 01, 02, 03, 04 and 4 more",
    ]
    assert archive(write(tmp_path / "y", TWO)).left_out() == []


def test_linked_folders_and_files_are_followed_each_folder_once(tmp_path: Path) -> None:
    write(tmp_path / "store", {"dog/0.png": PICTURE, "dog/old/1.png": PICTURE, "one.png": PICTURE})
    place = write(tmp_path / "x", {"cat/0.png": PICTURE})
    (place / "dog").symlink_to(tmp_path / "store" / "dog")
    (place / "cat" / "1.png").symlink_to(tmp_path / "store" / "one.png")
    assert list(archive(place).files) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/old/1.png"]
    assert archive(place).left_out() == []
    (place / "cat" / "2.png").symlink_to(tmp_path / "nothing.png")
    (place / "again").symlink_to(place / "cat")
    (place / "cat" / "loop").symlink_to(place)
    (tmp_path / "store" / "dog" / "up").symlink_to(tmp_path)
    found = archive(place)
    assert list(found.files) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/old/1.png"]
    links = "again, cat/2.png, cat/loop, dog/up"
    assert found.left_out() == [f"left out, as a broken link or a link to a folder that is read already: {links}"]
    assert found.read("dog/old/1.png") == PICTURE


def test_a_folder_of_links_in_a_ring_ends(tmp_path: Path) -> None:
    """Random links between folders: each real folder gives its files exactly once."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        place = write(tmp_path / str(seed), {f"{i}/{i}.png": PICTURE for i in range(5)})
        for link in range(8):
            source, target = rng.integers(0, 5, 2)
            (place / str(source) / f"link{link}").symlink_to(place / str(target), target_is_directory=True)
        assert sorted(archive(place).files) == [f"{i}/{i}.png" for i in range(5)], f"seed {seed}"


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its files would be missing without a message."""
    place = write(tmp_path / "x", TWO)
    listed = os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=rf"^{place}: cannot be read \(.*Permission denied: '{place}/dog'\)\. Give a "):
        archive(place)


def test_a_fifo_is_not_a_picture(tmp_path: Path) -> None:
    place = write(tmp_path / "x", {"cat/0.png": PICTURE})
    os.mkfifo(place / "cat" / "1.png")
    assert list(archive(place).files) == ["cat/0.png"]


@pytest.mark.parametrize("above", ["", "my_pictures/", "home/me/my_pictures/", "./pets/"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_a_zip_with_its_parent_folders_or_by_windows_is_the_folder(above: str, slash: str, tmp_path: Path) -> None:
    expected = loaded(write(tmp_path / "plain", TWO))
    inside = {f"{above}cat/": b"", **{above + name: content for name, content in TWO.items()}}
    place = write_zip(tmp_path / "x.zip", inside, slash)
    assert loaded(place)[:3] == expected[:3]
    root = above.removeprefix("./")[:-1]
    assert loaded(place)[3] == ((f"all files lie in '{root}': the folders in it are the classes",) if root else ())


def test_a_parent_folder_is_stripped_from_folders_too_and_one_class_stays_one(tmp_path: Path) -> None:
    inside = {f"pets/{name}": content for name, content in TWO.items()} | {"readme.txt": b"x", "other/notes.md": b"x"}
    found = archive(write(tmp_path / "x", inside))
    assert list(found.files) == list(TWO)
    assert str(found.where("cat/00.png")) == str(tmp_path / "x" / "pets" / "cat" / "00.png")
    one = {f"cat/{i}.png": PICTURE for i in range(20)}
    assert load_folder(write(tmp_path / "y", one)).class_names == ("cat",)
    assert load_folder(
        write(tmp_path / "z", {f"pets/{name}": content for name, content in one.items()})
    ).class_names == ("cat",)
    with pytest.raises(UserError, match=r"'cover\.png' is in no subfolder, but other files are"):
        load_folder(write(tmp_path / "x", {"pets/cover.png": PICTURE}))


@pytest.mark.parametrize("name", ["C:\\x.png", "..\\x.png", "\\x.png", "cat\\..\\..\\x.png"])
def test_windows_paths_that_climb_out_are_refused(name: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {name: PICTURE})
    with pytest.raises(UserError, match=r"a path that leads out of the zip\. Make the zip again\."):
        archive(tmp_path / "x.zip")


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("train", "val", "test"), ("Training", "Validation"), ("dev", "eval", "extra")]
)
@pytest.mark.parametrize("inner", ["", "cat/"])
def test_folders_named_like_parts_are_not_classes(parts: tuple[str, ...], inner: str, tmp_path: Path) -> None:
    files = {f"{part}/{inner}{i:02d}.png": PICTURE for part in parts for i in range(12)}
    wrapped = write_zip(tmp_path / "x.zip", {f"pets/{name}": content for name, content in files.items()})
    for place in (write(tmp_path / "x", files), wrapped):
        with pytest.raises(
            UserError, match=r"have names of splits, not of classes\. Give one of them .*, or rename them\.$"
        ):
            load_folder(place)


def test_one_class_may_be_called_train(tmp_path: Path) -> None:
    files = {f"{name}/{i:02d}.png": PICTURE for name in ("bus", "train") for i in range(12)}
    assert load_folder(write(tmp_path / "x", files)).class_names == ("bus", "train")


def test_two_members_of_one_name_are_reported(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", {"cat/0.png": b"first", "cat\\0.png": PICTURE})
    found = archive(tmp_path / "x.zip")
    assert found.left_out() == ["left out, as another file has the same name: cat/0.png"]
    assert found.read("cat/0.png") == PICTURE


def fingerprint(place: Path, name: str) -> object:
    return load_folder(place, name).fingerprint["sha256"]


@pytest.mark.parametrize("kind", ["latents", "image_folder"])
@pytest.mark.parametrize("change", ["one", "all", "time kept"])
def test_other_content_of_the_same_names_and_sizes_is_other_data(
    kind: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single changed byte counts, in files of any size and even after an earlier hash."""
    settled(monkeypatch)
    rng = np.random.default_rng(0)
    files = {
        f"{i:02d}.bmp": encoded(Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)), "bmp")
        for i in range(20)
    }
    if kind == "latents":
        files = {f"{i:02d}.npy": as_npy(rng.normal(size=(4, 3, 2)).astype(np.float32)) for i in range(20)}
    place = write(tmp_path / "x", files)
    before = [fingerprint(place, kind) for _ in range(2)]
    touched = sorted(files)[:1] if change != "all" else sorted(files)
    stamps = {name: (place / name).stat() for name in touched}
    write(place, {name: files[name][:-1] + bytes([files[name][-1] ^ 1]) for name in touched})
    if change == "time kept":
        for name, found in stamps.items():
            os.utime(place / name, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = fingerprint(place, kind)
    assert before[0] == before[1] != after
    write(place, files)
    assert fingerprint(place, kind) == before[0]


def test_a_zip_replaced_by_one_of_the_same_names_and_sizes_is_other_data(tmp_path: Path) -> None:
    bitmaps = {f"{i:02d}.bmp": encoded(Image.new("L", (6, 6), i), "bmp") for i in range(20)}
    place = write_zip(tmp_path / "x.zip", bitmaps)
    first = load_folder(place)
    fingerprints = [first.fingerprint, load_folder(place).fingerprint]
    write_zip(place, {name: encoded(Image.new("L", (6, 6), 200), "bmp") for name in bitmaps})
    second = load_folder(place)
    assert fingerprints[0] == fingerprints[1] != second.fingerprint
    assert (second.train[torch.arange(18)] == 200).all(), "pictures come of the new zip too"


def test_a_member_that_was_added_again_is_the_one_that_counts(tmp_path: Path) -> None:
    """Python updates a zip in this way: the later member with the same name counts, and the data are different, even if
    the later member is smaller.
    """
    bitmaps = {f"{i:02d}.bmp": encoded(Image.new("L", (9, 9), 10), "bmp") for i in range(20)}
    place = write_zip(tmp_path / "x.zip", bitmaps)
    before = load_folder(place).fingerprint
    with warnings.catch_warnings(), zipfile.ZipFile(place, "a") as archive:
        warnings.simplefilter("ignore")  # Python warns about every repeated name
        for name in bitmaps:
            archive.writestr(name, encoded(Image.new("L", (6, 6), 200), "bmp"))
    after = load_folder(place)
    assert after.fingerprint != before
    assert (after.train[torch.arange(18)] == 200).all()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the opened files."""
    seen: list[str] = []
    original = Archive.open

    def opened(archive: Archive, name: str) -> Any:
        seen.append(name)
        return original(archive, name)

    monkeypatch.setattr(Archive, "open", opened)
    return seen


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_files_are_hashed_once(zipped: bool, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    place = write_zip(tmp_path / "x.zip", TWO) if zipped else write(tmp_path / "x", TWO)
    expected = [hashlib.sha256(content).hexdigest() for content in TWO.values()]
    names = list(TWO)
    assert hashes.digests(archive(place), names[:30]) == expected[:30]
    assert hashes.digests(archive(place), names[30:]) == expected[30:]
    assert sorted(reads) == sorted(names)
    assert hashes.digests(archive(place), names[::-1]) == expected[::-1]
    assert len(reads) == len(names)
    changed = {**TWO, "dog/05.png": PICTURE[:-1] + b"\0"}
    write_zip(place, changed) if zipped else (place / "dog/05.png").write_bytes(changed["dog/05.png"])
    assert hashes.digests(archive(place), names) == [
        hashlib.sha256(content).hexdigest() for content in changed.values()
    ]
    assert reads[len(names) :] == ["dog/05.png"], "what did not change is not read again"


def test_hashes_are_kept_on_the_way(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    place = write(tmp_path / "x", TWO)
    hashed = hashes._hashed

    def stopped(*given: Any) -> Any:
        yield from itertools.islice(hashed(*given), 30)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hashes, "WRITE_EVERY_S", -1)
        patch.setattr(hashes, "_hashed", stopped)
        with pytest.raises(KeyboardInterrupt):
            hashes.digests(archive(place), list(TWO))
    reads.clear()
    hashes.digests(archive(place), list(TWO))
    assert reads == list(TWO)[30:]


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    place = write(tmp_path / "x", TWO)
    for _ in range(2):
        hashes.digests(archive(place), list(TWO))
    assert len(reads) == 2 * len(TWO)


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "list": lambda text: "[]",
    "numbers": lambda text: json.dumps({"files": dict.fromkeys(TWO, 3)}),
    "short": lambda text: json.dumps(
        {"files": {name: [entry[0], entry[1][:12]] for name, entry in json.loads(text)["files"].items()}}
    ),
    "null": lambda text: json.dumps({"files": None}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_hashes_are_computed_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    place = write(tmp_path / "x", TWO)
    expected = hashes.digests(archive(place), list(TWO))
    (kept,) = (results_folder() / "local" / "hashes").iterdir()
    kept.write_text(DAMAGES[damage](kept.read_text()))
    assert hashes.digests(archive(place), list(TWO)) == expected
    assert len(json.loads(kept.read_text())["files"]) == len(TWO)


def test_hashes_do_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    monkeypatch.setattr(hashes, "KEPT", 3)
    place = write(tmp_path / "x", TWO)
    hashes.digests(archive(place), list(TWO))
    (kept,) = (results_folder() / "local" / "hashes").iterdir()
    for name in list(TWO)[:39]:
        (place / name).unlink()
    write(place, {"dog/20.png": PICTURE})
    hashes.digests(archive(place), list(archive(place).files))
    assert json.loads(kept.read_text())["files"].keys() == {"dog/19.png", "dog/20.png"}, (
        "files that are gone are forgotten"
    )
    for i in range(5):
        other = write(tmp_path / str(i), {"a/0.png": PICTURE})
        hashes.digests(archive(other), ["a/0.png"])
    assert len(list((results_folder() / "local" / "hashes").iterdir())) == 3


def test_a_results_folder_that_cannot_be_written_costs_another_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "file"))
    place = write(tmp_path / "x", TWO)
    assert len(set(hashes.digests(archive(place), list(TWO)))) == 1


def test_long_hashing_is_shown_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    place = write(tmp_path / "x", TWO)
    hashes.digests(archive(place), list(TWO))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(hashes, "SHOWN_BYTES", 0)
    hashes.digests(archive(place), list(TWO))
    assert "reading" in capsys.readouterr().err


def test_a_latent_folder_reports_the_files_left_out(tmp_path: Path) -> None:
    files = {f"{name}/{i:02d}.npy": as_npy(np.zeros((4, 2, 2), np.float32)) for name in "ab" for i in range(10)}
    data: Data = build(
        "dataset", {"name": "latents", "path": str(write(tmp_path / "x", {**files, "a/x.pt": b""}))}
    ).load()
    assert data.notes == ("left out: 1 file ending in .pt, in a",)
    assert len(data.train) == 18
