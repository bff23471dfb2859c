"""Resuming a run by its folder alone."""

import pytest

from launch.training.resume_options import with_config_of_run
from tests.launch.conftest import alone_command, losses, run_command


@pytest.mark.parametrize(
    ("arguments", "adds"),
    [
        (["--run_dir={}", "--resume"], True),
        (["--resume", "--run_dir", "{}", "--train.epochs=3"], True),
        (["--run-dir={}", "--resume=auto"], True),
        (["--run_dir={}"], False),
        (["--run_dir={}", "--resume=never"], False),
        (["--run_dir={}", "--resume", "--config=other.yaml"], False),
        (["--run_dir={}", "--resume", "--config", "other.yaml"], False),
        (["--run_dir={}/elsewhere", "--resume"], False),
        (["--resume"], False),
    ],
)
def test_the_configuration_of_the_run_counts_where_none_is_named(tmp_path, arguments, adds):
    (tmp_path / "config.yaml").write_text("train: {}")
    given = [argument.format(tmp_path) for argument in arguments]
    assert with_config_of_run(given) == [f"--config={tmp_path / 'config.yaml'}"] * adds + given


@pytest.mark.slow
def test_a_run_resumes_by_its_folder(small_config, tmp_path):
    run_dir = tmp_path / "run"
    assert run_command(alone_command(small_config, run_dir, "--train.epochs=1")).returncode == 0
    command = [part for part in alone_command(small_config, run_dir, "--resume") if "--config" not in str(part)]
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout and len(losses(run_dir)) == 5
