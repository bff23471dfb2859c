"""Passwords and tokens of data URLs reach the server, and neither a file nor the screen."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from launch.training.config_parser import parse_config
from sharding.errors import UserError, redacted
from sharding.objects.failures import failure_of
from sharding.objects.folder import check_writable_url
from tests.helpers.commands import run_command
from tests.helpers.servers import FaultyServer
from tests.launch.conftest import alone_command, train_alone

SECRETS = ("hidden", "0123abcd", "9f86d081")


@pytest.fixture
def server(motion) -> Iterator[FaultyServer]:
    with FaultyServer(motion) as server:
        yield server


def secret_url(server: FaultyServer, split: str) -> str:
    host = server.url.removeprefix("http://")
    return f"http://me:hidden@{host}/{split}?X-Amz-Signature=0123abcd&sig=9f86d081"


def found_in(folder: Path) -> list[tuple[str, str]]:
    """Return each secret with each file that it is in."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [(secret, path.name) for path in files for secret in SECRETS if secret.encode() in path.read_bytes()]


def test_a_printed_configuration_holds_no_secret(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_config("train.py", ["--data.val=http://me:hidden@host/val?sig=9f86d081", "--print_config"])
    values = yaml.safe_load(capsys.readouterr().out)
    assert ended.value.code == 0
    assert values["data"]["val"] == "http://***@host/val?***"
    assert values["train"]["epochs"] == 80


@pytest.mark.slow
def test_a_run_keeps_no_secret(server, small_config, tmp_path):
    run_dir, cache = tmp_path / "run", tmp_path / "cache"
    data = [f"--data.{split}={secret_url(server, split)}" for split in ("train", "val")]
    options = [f"--data.cache_dir={cache}", "--data.num_workers=1", "--train.epochs=1"]
    done = train_alone(small_config, run_dir, *data, *options)
    assert done.returncode == 0, done.stderr
    assert all("X-Amz-Signature=0123abcd" in request.path for request in server.requests)
    shown = done.stdout + done.stderr
    assert not any(secret in shown for secret in SECRETS) and found_in(tmp_path) == []
    host = server.url.removeprefix("http://")
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["data"]["train"] == f"http://***@{host}/train?***"

    out, wrong = tmp_path / "out", server.url.replace("//", "//me:hidden@") + "/nothing?token=0123abcd"
    for url, code in ((secret_url(server, "val"), 0), (wrong, 2)):
        command = [sys.executable, "launch/evaluate.py", f"--checkpoint={run_dir}", f"--data={url}", f"--out={out}"]
        done = run_command(command)
        assert done.returncode == code, done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in SECRETS) and found_in(tmp_path) == []

    command = [part for part in alone_command(small_config, run_dir, "--resume") if "--config" not in str(part)]
    done = run_command(command)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert (
        "its password or token is kept in no file; give the URL again (--data.train=URL, --data.val=URL)" in done.stderr
    )
    done = run_command([*command, *data])
    assert done.returncode == 0, done.stderr
    assert found_in(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/k400/train", "s3://bucket/k400/train"),
        ("/videos/what?/train#1", "/videos/what?/train#1"),
        ("https://me:a@b@host/train", "https://***@host/train"),
        ("https://me:a?b@host/train", "https://***@host/train"),
        ("https://ghp_0123@host/train#token", "https://***@host/train?***"),
        ("simplecache::https://me:x@host/train?sig=1&se=2", "simplecache::https://***@host/train?***"),
        (
            "get 'https://host/a?sig=1' or https://host/b?sig=2; retry?",
            "get 'https://host/a?***' or https://host/b?*** retry?",
        ),
        ("https://***@host/train?***", "https://***@host/train?***"),
        ("https://host/a(1)/train.csv?sig=SECRET", "https://host/a(1)/train.csv?***"),
        ("https://host/bob's/x?token=SECRET: gone", "https://host/bob's/x?*** gone"),
        ("https://host/a>b/x#SECRET", "https://host/a>b/x?***"),
        ("https://host/my videos/a.csv?X-Amz-Signature=SECRET", "https://host/my videos/a.csv?***"),
        ("https://host/my videos/a#1? b.csv?sig=SECRET&x", "https://host/my videos/a#1? b.csv?***"),
        ("(see 'https://host/my videos/a?sig=SECRET'), then", "(see 'https://host/my videos/a?***'), then"),
        ("https://host/a?name='b'&sig=SECRET)", "https://host/a?***)"),
        ("https://me:pass word@host/train", "https://***@host/train"),
        ("https://user:pa/ss@host/x", "https://***@host/x"),
        ("https://user:p@ss/word@host/x was not found", "https://***@host/x was not found"),
        ("s3://AKIA:se/cret@bucket/x: gone", "s3://***@bucket/x: gone"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("https://host/a was not found; is it there?", "https://host/a was not found; is it there?"),
    ],
)
def test_what_is_redacted(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize("path", ["a(1)", "bob's", "my videos", "a>b", 'a"b'])
def test_an_out_with_a_secret_is_refused_whatever_its_path_holds(path):
    with pytest.raises(UserError, match="without user, password and query") as error:
        check_writable_url(f"s3://bucket/{path}/x?token=SECRET")
    assert "SECRET" not in str(error.value)


def test_an_error_of_a_server_keeps_no_secret():
    failure = failure_of(OSError("GET /my videos/bob's?a='b'&sig=SECRET: token has expired"), "check the URL")
    assert "SECRET" not in str(failure) and "the credentials have expired" in str(failure)
