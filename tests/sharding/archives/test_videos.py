"""Packing from archives: the bytes of a folder, each read in order, nothing left lying; hostile ones refused."""

import copy
import gzip
import io
import json
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

import sharding.archives.listing
import sharding.packing.streamed
from sharding import PackConfig, UserError, pack, verify
from sharding.__main__ import main
from sharding.archives.tar_reader import TarReader
from tests.helpers.videos import write_numbered_video
from tests.sharding.test_pack import hashes


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Nine videos in class folders, one of them cut off, a folder of pictures, a text; and their list, with one more
    that is not there."""
    folder = tmp_path_factory.mktemp("archives") / "videos"
    for number in range(9):
        write_numbered_video(folder / "ab"[number % 2] / f"v{number}.mp4", 5 + number, first_number=100 * number)
    cut = folder / "b" / "v7.mp4"
    cut.write_bytes(cut.read_bytes()[:-300])
    (folder / "a" / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (48, 32), (60 * number, 0, 0)).save(folder / "a" / "pictures" / f"{number:03d}.jpg")
    (folder / "a" / "notes.txt").write_text("no video")
    lines = [f"{path.relative_to(folder)} {path.parent.name}" for path in sorted(folder.glob("*/*.mp4"))]
    lines += ["a/pictures a", "b/absent.mp4 b"]
    (folder.parent / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


def config(videos: Path, of: Path, out: Path, **options) -> PackConfig:
    defaults = {"workers": 2, "samples_per_shard": 4, "max_failures": 0.3, "annotations": (of.parent / "list.txt",)}
    return PackConfig("list", videos, out, **(defaults | options))


@pytest.fixture(scope="module", params=["h264", pytest.param("copy", marks=pytest.mark.slow)])
def packed(request, videos, tmp_path_factory) -> tuple[str, dict[str, str]]:
    """A profile, and the hashes of all files that the folder gives under it."""
    directory = pack(config(videos, videos, tmp_path_factory.mktemp("packed"), profile=request.param)).directory
    assert len((directory / "failures.jsonl").read_text().splitlines()) == 2
    return request.param, hashes(directory)


def write_tar(path: Path, root: Path, names: list[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name in names:
            tar.add(root / name, f"./{name}", recursive=False)
    return path


def make(kind: str, root: Path, folder: Path) -> Path:
    """Put what is below `root` into archives; return what --videos is then."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))
    folder.mkdir()
    if kind == "parts":
        write_tar(folder / "part_0.tar.gz", root, names[::3], "w:gz")
        write_tar(folder / "part_1.tgz", root, names[1::3], "w:gz")
        write_tar(folder / "part_2.tar", root, names[2::3])
        (folder / "README.md").write_text("Three parts.")
        return folder
    if kind == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(root / name, f"UCF-101/{name}")
        return folder / "all.zip" / "UCF-101"
    return write_tar(folder / f"all.{kind}", root, names, "w:gz" if kind == "tar.gz" else "w")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parts"])
def test_archives_give_the_bytes_of_a_folder(kind, videos, packed, tmp_path):
    profile, expected = packed
    archives = make(kind, videos, tmp_path / "archives")
    result = pack(config(archives, videos, tmp_path / "out", profile=profile))
    assert hashes(result.directory) == expected
    assert verify(result.directory, decode=True).ok
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"train", ".listings"}


def test_readers_of_datasets_see_the_names(videos, tmp_path, caplog):
    archives = make("parts", videos, tmp_path / "archives")
    options = {"workers": 1, "max_failures": 0.3, "max_frames": 2}
    folder = pack(PackConfig("folder", videos, tmp_path / "1", **options))
    streamed = pack(PackConfig("folder", archives, tmp_path / "2", **options))
    assert folder.samples == 9 and folder.failures == 1 and folder.fingerprint == streamed.fingerprint
    assert "1 files passed over" in caplog.text
    nested = make("zip", videos, tmp_path / "zip").parent
    with pytest.raises(UserError, match=rf"did you mean --videos {nested}/UCF-101\?"):
        pack(PackConfig("folder", nested, tmp_path / "3", **options))


def test_a_stopped_run_encodes_nothing_twice_and_lists_nothing_twice(videos, packed, tmp_path, monkeypatch):
    profile, expected = packed
    archives = make("tar.gz", videos, tmp_path / "archives")
    kept, original = [], sharding.packing.streamed.write_spooled
    out = tmp_path / "out"

    def stop_at_fifth(directory, shard, key, *others):
        if len(kept) == 4:
            raise KeyboardInterrupt
        original(directory, shard, key, *others)
        kept.append(key)

    monkeypatch.setattr("sharding.packing.streamed.write_spooled", stop_at_fifth)
    with pytest.raises(KeyboardInterrupt):
        pack(config(archives, videos, out, profile=profile, workers=1))
    assert len(kept) == 4 and not list(out.glob("train/[!.]*")) and not list(out.glob("train/.parts/work-*"))

    again, opened = [], []
    monkeypatch.setattr(
        "sharding.packing.streamed.write_spooled", lambda *args: (again.append(args[2]), original(*args))
    )
    open_tar = sharding.archives.listing.open_tar
    monkeypatch.setattr("sharding.archives.listing.open_tar", lambda *args: (opened.append(args), open_tar(*args))[1])
    result = pack(config(archives, videos, out, profile=profile))
    assert sorted(kept + again) == sorted(set(kept + again)) and len(kept + again) == 10
    assert not opened, "the listing was kept"
    assert hashes(result.directory) == expected


def test_only_videos_at_work_are_unpacked(videos, tmp_path, monkeypatch):
    archives = make("tar.gz", videos, tmp_path / "archives")
    most, encode = [], sharding.packing.streamed._encode

    def count(box, copy, *others):
        most.append(len(list((tmp_path / "out" / "train" / ".parts").glob("work-*/*"))))
        return encode(box, copy, *others)

    monkeypatch.setattr("sharding.packing.streamed._encode", count)
    pack(config(archives, videos, tmp_path / "out", workers=1))
    assert 1 <= max(most) <= 3


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def long_header() -> bytes:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)


def overlapping_zip() -> bytes:
    """Ten names for the same bytes: what unpacks to ten times the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/v.mp4", bytes(range(256)) * 20)
        for number in range(9):
            other = copy.copy(archive.filelist[0])
            other.filename = f"a/{number}.mp4"
            archive.filelist.append(other)
    return buffer.getvalue()


GOOD = tar_of((named("a/v.mp4"), b"x" * 3000))
HOSTILE = {
    "up.tar": (tar_of((named("a/../../v.mp4"), b"x")), r"member 'a/../../v.mp4': a path that leads out of the archive"),
    "root.tar.gz": (gzip.compress(tar_of((named("/etc/v.mp4"), b"x"))), "a path that leads out of the archive"),
    "up.zip": (zip_of(("../v.mp4", b"x")), "a path that leads out of the archive"),
    "twice.tar": (tar_of((named("a/v.mp4"), b"x"), (named("./a/v.mp4"), b"y")), "two members are named 'a/v.mp4'"),
    "header.tar": (GOOD[:512] + bytes(3072) + b"y" * 512 + GOOD[-1024:], "no header of a member at byte 3584"),
    "memory.tar.gz": (gzip.compress(long_header()), "a header of 1099511627776 bytes"),
    "cut.tar": (GOOD[:2000], "cut off"),
    "end.tar": (GOOD[: 512 + 3072], "ends at byte 3584 without the mark of its end"),
    "cut.tar.gz": (gzip.compress(GOOD + bytes(range(256)) * 99)[:-20], r"cut\.tar\.gz: cut off after [\d,]+ bytes"),
    "flipped.tgz": (gzip.compress(GOOD)[:-8] + bytes(8), "damaged near byte"),
    "bomb.tar.gz": (gzip.compress(tar_of((named("a/v.mp4"), bytes(80 << 20)))), "which no archive of videos does"),
    "overlap.zip": (overlapping_zip(), "its members are larger than the file, so they overlap"),
    "sparse.tar": (tar_of((named("a/v.mp4", tarfile.GNUTYPE_SPARSE), b"x")), "'a/v.mp4' is a sparse file"),
    "records.tar": (tar_of((named("x", tarfile.XHDTYPE), b"none")), "the extended header before byte 1024 is none"),
    "size.tar": (
        tar_of((named("x", tarfile.XHDTYPE), b"10 size=x\n"), (named("a/v.mp4"), b"x")),
        "has an impossible size or name",
    ),
    "no.zip": (b"PK\3\4" + bytes(100), "no readable zip file"),
    "text.tar": (b"hello" * 300, "no tar file"),
    "both.tar": (tar_of((named("a"), b"x"), (named("a/v.mp4"), b"x")), "'a/v.mp4' in it is both a file and a folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_by_name(name, tmp_path, capfd):
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        pack(PackConfig("folder", tmp_path / name, tmp_path / "out"))
    assert name in str(error.value) and "\n" not in str(error.value)
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")} <= {
        *((name,), ("out",), ("out", ".listings"))
    }


def test_one_member_in_two_archives(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("1.zip", "2.zip"):
        (tmp_path / "in" / name).write_bytes(zip_of(("a/v.mp4", b"x")))
    with pytest.raises(UserError, match=r"1\.zip and .*2\.zip: both have a member 'a/v\.mp4'"):
        pack(PackConfig("folder", tmp_path / "in", tmp_path / "out"))


def test_members_that_are_no_files_fail_alone(tmp_path):
    """Links and devices, bombs in a zip, and damage to one member: a line each of failures.jsonl."""
    good = write_numbered_video(tmp_path / "v.mp4", 5).read_bytes()
    members = [(named("a/good.mp4"), good), (named("a/soft.mp4", tarfile.SYMTYPE, "/etc/passwd"), b"")]
    members += [(named("a/hard.mp4", tarfile.LNKTYPE, "a/good.mp4"), b""), (named("a/dev.mp4", tarfile.CHRTYPE), b"")]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.tar").write_bytes(tar_of(*members))
    (tmp_path / "in" / "2.tar.gz").write_bytes(
        gzip.compress(tar_of(*((named(m.name.replace("a/", "b/"), m.type, m.linkname), c) for m, c in members)))
    )
    damaged = bytearray(zip_of(("c/good.mp4", good), ("c/bomb.mp4", bytes(40 << 20)), ("c/bad.mp4", b"abcdefgh" * 9)))
    place = damaged.index(b"c/bad.mp4") + len("c/bad.mp4")
    damaged[place + 2 : place + 5] = b"\xff\xff\xff"
    (tmp_path / "in" / "3.zip").write_bytes(damaged)
    result = pack(PackConfig("folder", tmp_path / "in", tmp_path / "out", workers=1, max_failures=1))
    found = {
        line["key"]: (line["kind"], line["error"])
        for line in map(json.loads, (result.directory / "failures.jsonl").read_text().splitlines())
    }
    assert result.samples == 3 and {kind for kind, _ in found.values()} == {"open"}
    assert {key: error for key, (_, error) in found.items() if key[0] != "c"} == {
        **{f"{c}-soft": f"a link in {name}, not a file" for c, name in (("a", "1.tar"), ("b", "2.tar.gz"))},
        **{f"{c}-hard": f"a link in {name}, not a file" for c, name in (("a", "1.tar"), ("b", "2.tar.gz"))},
        **{f"{c}-dev": f"a device in {name}, not a file" for c, name in (("a", "1.tar"), ("b", "2.tar.gz"))},
    }
    assert "are to be 41,943,040, as of no video" in found["c-bomb"][1]
    assert "damaged" in found["c-bad"][1]


def test_a_zip_that_says_less_than_it_holds(tmp_path):
    """Of a member that inflates to more than its header says, no more than that is written."""
    content = zip_of(("a/v.mp4", bytes(1 << 20)))
    size = (1 << 20).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content.replace(size, (1000).to_bytes(4, "little")))
    result = pack(PackConfig("folder", tmp_path / "x.zip", tmp_path / "out", workers=1, max_failures=1))
    [line] = (result.directory / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["error"] == "damaged in x.zip: other bytes than its header says"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_kind_are_read_as_tarfile_reads_them(format, tmp_path):
    long = "x" * 90 + "/" + "y" * 90 + ".mp4"
    names = ["short.mp4", long, "ü/ö.mp4", "empty.mp4"] + (["z" * 240] if format != tarfile.USTAR_FORMAT else [])
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=format) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 700 * number if name != "empty.mp4" else 0
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
        tar.addfile(named("folder", tarfile.DIRTYPE))
    with tarfile.open(path) as tar, path.open("rb") as stream:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
        reader = TarReader(stream, "x.tar")
        found = [((m.name, m.offset, m.size), reader.read(1 << 20)) for m in reader]
    assert [place for place, _ in found] == expected
    assert [zlib.crc32(data) for _, data in found[:3]] == [zlib.crc32(bytes([n]) * 700 * n) for n in range(3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.rar", r"x\.rar: a folder of videos is expected, or an archive: .*; unpack it"), ("x.mp4", "or an archive")],
)
def test_other_files_are_no_archives(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        pack(PackConfig("folder", tmp_path / name, tmp_path / "out"))


def test_what_pack_cannot_do_with_a_stream(videos, tmp_path, capsys):
    archives = make("tar.gz", videos, tmp_path / "archives")
    with pytest.raises(UserError, match=r"--shard-bytes: .* give --samples-per-shard"):
        pack(config(archives, videos, tmp_path / "out", samples_per_shard=None, shard_bytes=10000))
    arguments = ["pack", "--dataset=list", f"--videos={archives}", f"--out={tmp_path / 'o'}", "--max-failures=0.3"]
    assert main([*arguments, f"--annotations={videos.parent / 'list.txt'}", "--workers=1"]) == 0
    assert "9 samples in 1 shards" in capsys.readouterr().out


def test_failed_videos_are_tried_again_and_no_others(videos, tmp_path, monkeypatch):
    archive = make("tar.gz", videos, tmp_path / "archives")
    assert pack(config(archive, videos, tmp_path / "out", workers=1)).failures == 2
    mended = shutil.copytree(videos, tmp_path / "mended")
    write_numbered_video(mended / "b" / "v7.mp4", 12, first_number=700)
    archive.unlink()
    write_tar(archive, mended, sorted(p.relative_to(mended).as_posix() for p in mended.rglob("*")), "w:gz")
    again, original = [], sharding.packing.streamed.write_spooled
    monkeypatch.setattr(
        "sharding.packing.streamed.write_spooled", lambda *args: (again.append(args[2]), original(*args))
    )
    result = pack(config(archive, videos, tmp_path / "out", workers=1, retry_failed=True))
    assert (again, result.failures, result.samples) == (["b-v7"], 1, 10)
    assert verify(result.directory, decode=True).ok
