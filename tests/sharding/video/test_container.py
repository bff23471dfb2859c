"""What is no video by itself is not opened: no host, no other file, no neighbour is reached through it."""

import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharding.errors import MediaError
from sharding.video.container import open_video
from sharding.video.decode import decode_frames, probe
from sharding.video.encode import FrameChoice, encode_h264
from tests.helpers.videos import draw_number, read_number, write_numbered_video

SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n"
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><BaseURL>{other}</BaseURL></MPD>'


@pytest.fixture
def texts(tmp_path) -> dict[str, str]:
    other = write_numbered_video(tmp_path / "elsewhere" / "other.ts", 10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "sdp": SDP.format(port=port),
        "ffconcat": f"ffconcat version 1.0\nfile {other}\n",
        "m3u8": HLS.format(other=other),
        "mpd": DASH.format(other=other),
        "srt": "1\n00:00:01,000 --> 00:00:02,000\nHello\n",
        "ass": "[Script Info]\nScriptType: v4.00+\n[Events]\n",
        "nfo": "hello",
        "ans": "\x1b[31mred\x1b[0m" * 50,
    }


@pytest.mark.parametrize("kind", ["sdp", "ffconcat", "m3u8", "mpd", "srt", "ass", "nfo", "ans"])
@pytest.mark.parametrize("suffix", ["mp4", None])
def test_texts(tmp_path, texts, kind, suffix):
    path = tmp_path / f"clip.{suffix or kind}"
    path.write_text(texts[kind])
    started = time.monotonic()
    for media in (path, path.read_bytes()):
        with pytest.raises(MediaError) as caught, open_video(media):
            pass
        assert caught.value.kind == "open"
    assert time.monotonic() - started < 5  # seconds; nobody waited for a host


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "tiff", "ppm", "avif"])
def test_pictures(tmp_path, kind):
    Image.init()
    if f".{kind}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow cannot write {kind}")
    path = tmp_path / f"cover.{kind}"
    Image.fromarray(draw_number(7, (96, 64))).save(path)
    renamed = shutil.copy(path, tmp_path / "renamed.mp4")
    for media in (path, renamed, path.read_bytes()):
        with pytest.raises(MediaError, match="no video file: a picture") as caught:
            probe(media)
        assert caught.value.kind == "open"


def test_no_file_name_is_a_pattern_or_a_protocol(tmp_path, monkeypatch):
    for number in range(5):
        Image.fromarray(draw_number(number, (96, 64))).save(tmp_path / f"seq{number:03d}.png")
    (tmp_path / "seq%03d.png").write_bytes((tmp_path / "seq000.png").read_bytes())
    (tmp_path / "seq*.png").write_bytes((tmp_path / "seq000.png").read_bytes())
    for name in ("seq%03d.png", "seq*.png"):
        with pytest.raises(MediaError, match="no video file"):
            probe(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    film = write_numbered_video(tmp_path / "film.mp4", 5)
    for name in ("concat:a|b.mp4", "data:x.mp4", "clip%03d.mp4", "-i.mp4", "http:x.mp4", "a?b#c.mp4"):
        shutil.copy(film, tmp_path / name)
        assert read_number(decode_frames(Path(name), np.array([3]))[0]) == 3


def test_frames_of_a_codec_of_pictures_are_a_video(tmp_path):
    """It is the container that counts."""
    path = write_numbered_video(tmp_path / "film.mov", 5, codec="png", pix_fmt="rgb24")
    assert encode_h264(path, tmp_path / "out.mp4", FrameChoice()).num_frames == 5
