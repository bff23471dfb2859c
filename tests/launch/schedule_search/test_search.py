"""Planning for real: every edge trained on generated videos, killed for real, and what it finds trained."""

import json
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from launch.schedule_search.algorithm import Edge, Outcome, Plan
from launch.schedule_search.config import PlannedConfig
from launch.schedule_search.search import conclude, evaluate_start, read_accuracies, schedule_yaml
from launch.search_schedule import main
from launch.training.config import TrainConfig
from launch.training.config_parser import parse_config
from launch.training.distributed import Ranks
from launch.training.evaluation import evaluate
from launch.training.run_dir import locked
from launch.training.run_log import RunLog, read_metrics
from model import build_model
from pipeline.loader import VideoLoader
from sharding.dataset import load_dataset
from sharding.errors import UserError
from tests.conftest import ROOT, run_command
from tests.launch.conftest import alone_command, started, train_alone, train_command, wait_for_step

PLAN = {
    "clips": [{"num_segments": 2, "learning_rate": 0.1}, {"num_segments": 4, "learning_rate": 0.1}],
    "rate_factors": [1.0],
    "patience_epochs": 1,
    "max_epochs": 2,
}


@pytest.fixture(scope="module")
def plan_config(small_config, tmp_path_factory):
    """small_config with a plan of the three edges 0-1, 0-2, 1-2, of two epochs each."""
    values = yaml.safe_load(small_config.read_text())
    del values["train"]["epochs"], values["data"]["num_segments"]
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(yaml.safe_dump(values | {"schedule": {"milestones": []}, "plan": PLAN}))
    return path


def plan_command(config, run_dir, *options):
    return plan_instead(alone_command(config, run_dir, *options))


def plan_instead(command):
    return ["launch/search_schedule.py" if part == "launch/train.py" else part for part in command]


def parse(config, *options) -> PlannedConfig:
    return parse_config("launch/search_schedule.py", [f"--config={config}", *options], PlannedConfig)


def test_a_schedule_is_written_as_an_ordinary_configuration(plan_config, tmp_path):
    config = parse(plan_config, "--schedule.warmup_epochs=2", "--run_dir=runs/plan")
    schedule = config.schedule_of([(1, 1), (2, 3)])
    path = tmp_path / "schedule.yaml"
    path.write_text(schedule_yaml(schedule))
    assert parse_config("train", [f"--config={path}"]) == schedule
    assert [(phase.num_segments, phase.epochs) for phase in schedule.phases] == [(2, 1), (4, 3)]
    assert schedule.schedule.warmup_epochs == 1 and schedule.run_dir == "runs/plan/trained"
    assert "kernel" not in path.read_text() and "seed" not in path.read_text()  # only what differs


def test_epochs_that_happen_to_be_the_default_are_those_of_the_phases_too(plan_config):
    config = parse(plan_config)
    schedule = config.schedule_of([(1, 20), (2, TrainConfig.epochs - 20)])
    written = yaml.safe_load(schedule_yaml(schedule))
    assert [phase["epochs"] for phase in written["phases"]] == [20, 60]
    assert "epochs" not in written["train"]


def test_an_edge_begins_with_the_model_of_its_start_or_as_the_run_does(plan_config):
    options = ["--model.init=am_mup", "--schedule.warmup_epochs=2"]
    config = parse(plan_config, *options)
    trained = Outcome(Edge(0, 1), (0.0, 0.5), 1, 0.5, "weights.safetensors")
    untrained = Outcome(Edge(0, 1), (0.0, 0.0), 0, 0.0, None)
    found = {
        name: (along.model.pretrained, along.model.init, along.schedule.warmup_epochs)
        for name, along in (
            ("source", config.along(Edge(0, 1), None)),
            ("trained", config.along(Edge(1, 2), trained)),
            ("untrained", config.along(Edge(1, 2), untrained)),
        )
    }
    assert found["source"] == found["untrained"] == (None, "am_mup", 2)
    assert found["trained"] == ("weights.safetensors", "kaiming", 0)


def accuracy_under_the_clips_of(config: PlannedConfig, edge: Edge, weights) -> float:
    """(top-1 + top-3 + top-5) / 3 of weights under the clips of an edge, without anything of the search."""
    along = config.along(edge, None)
    net = build_model(along.model)
    net.load_state_dict(load_file(weights))
    dataset = load_dataset(along.data.val)
    with closing(VideoLoader(dataset, along.data, training=False, micro_batch_size=4)) as loader:
        found = evaluate(net, loader, along.model.num_classes, along.train.precision)
    return (found.top1 + found.top3 + found.top5) / 3


def test_the_start_of_an_edge_is_evaluated_once_under_the_clips_of_the_edge(plan_config, tmp_path):
    config = parse(plan_config, f"--run_dir={tmp_path}", "--model.arch=tsn")
    short, long = Edge(0, 1), Edge(1, 2)
    net = build_model(config.along(short, None).model)
    torch.nn.init.normal_(net.fc.weight, std=10)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "model.safetensors")
    start = Outcome(short, (0.0, 0.123), 1, 0.123, str(tmp_path / "model.safetensors"))
    along = config.along(long, start)
    folder = tmp_path / "edges" / "1-2"
    folder.mkdir(parents=True)
    loader = VideoLoader(load_dataset(along.data.val), along.data, training=False, micro_batch_size=4)
    trainer = SimpleNamespace(config=along, ranks=Ranks(0, 1, torch.device("cpu")), val_loader=loader, run_dir=folder)
    for _ in range(2):  # as if it was resumed
        trainer.log = RunLog(folder, 0, 0)
        evaluate_start(trainer)
        trainer.log.close()
    loader.close()
    assert len(read_metrics(folder)) == 1
    expected = accuracy_under_the_clips_of(config, long, tmp_path / "model.safetensors")
    assert read_accuracies(folder) == {0: pytest.approx(expected)} and expected != 0.123


def test_the_start_of_an_edge_with_several_labels_is_its_map(plan_config, several_labels, tmp_path):
    options = [f"--data.{split}={several_labels}" for split in ("train", "val")]
    config = parse(plan_config, f"--run_dir={tmp_path}", "--model.arch=tsn", "--data.min_frames=1", *options)
    assert config.model.multi_label
    net = build_model(config.along(Edge(0, 1), None).model)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, tmp_path / "model.safetensors")
    start = Outcome(Edge(0, 1), (0.0, 0.1), 1, 0.1, str(tmp_path / "model.safetensors"))
    along = config.along(Edge(1, 2), start)
    with VideoLoader(load_dataset(several_labels), along.data, training=False, micro_batch_size=4) as loader:
        ranks = Ranks(0, 1, torch.device("cpu"))
        trainer = SimpleNamespace(
            config=along, ranks=ranks, val_loader=loader, run_dir=tmp_path, log=RunLog(tmp_path, 0, 0)
        )
        evaluate_start(trainer)
    trainer.log.close()
    [line] = read_metrics(tmp_path)
    assert read_accuracies(tmp_path) == {0: line["map"]} and 0 < line["map"] < 1


def test_the_path_is_said_for_clips_that_leave_their_number_of_frames(plan_config, tmp_path, caplog):
    clips = "[{sampling: dense, learning_rate: 0.1}]"
    config = parse(plan_config, f"--plan.clips={clips}", "--data.num_segments=3", f"--run_dir={tmp_path}")
    plan = Plan()
    plan.add(Outcome(Edge(0, 1), (0.0, 0.5, 0.6), 2, 0.6, "weights.safetensors"))
    with caplog.at_level("INFO", "launch.schedule_search.search"):
        conclude(config, plan)
    assert "2 epochs: 3 frames, learning rate 0.1" in caplog.text


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "configs" / "plans").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_plans_of_the_configs_parse(path):
    config = parse(path)
    assert config.run_dir == f"runs/plan_{path.stem}"
    assert config.schedule_of_all().phases


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train.epochs=3"], "a plan finds them"),
        (["--schedule.milestones=[3]"], "use schedule.name=step, schedule.milestones=[]"),
        (["--phases=[{epochs: 3}]"], "phases: they are what is to be found"),
        (["--plan.rate_factors=[0.1,1]"], "falling"),
        (["--data.val=null"], "data.val is not set"),
        (["--schedule.warmup_epochs=3"], "schedule.warmup_epochs=3.0 is longer than plan.max_epochs=2"),
        (["--data.train=nowhere"], "nowhere"),
    ],
)
def test_mistakes_found_before_anything_is_begun(plan_config, tmp_path, options, message):
    with pytest.raises(UserError) as caught:
        main([f"--config={plan_config}", f"--run_dir={tmp_path / 'run'}", *options])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def planned(plan_config, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("planned") / "run"
    done = run_command(plan_command(plan_config, run_dir), fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


@pytest.mark.slow
def test_a_plan_is_found_drawn_and_trained(planned, tmp_path):
    values = json.loads((planned / "plan.json").read_text())
    edges = {"{}-{}".format(*outcome["edge"]): outcome for outcome in values["edges"]}
    assert list(edges) == ["0-1", "0-2", "1-2"]
    assert (planned / "plan.png").stat().st_size > 10_000
    for name, outcome in edges.items():
        lines = [line for line in read_metrics(planned / "edges" / name) if line["kind"] == "evaluation"]
        means = [(line["top1"] + line["top3"] + line["top5"]) / 3 for line in lines]
        assert outcome["metrics"][-len(means) :] == pytest.approx(means)
        assert [line["epoch"] for line in lines] == list(range(outcome["edge"][0] == 0, len(outcome["metrics"])))
    assert edges["0-1"]["metrics"][0] == edges["0-2"]["metrics"][0] == 0
    config = parse(planned / "plan.yaml")
    expected = accuracy_under_the_clips_of(config, Edge(1, 2), planned / "edges" / "0-1" / "model.safetensors")
    assert edges["1-2"]["metrics"][0] == pytest.approx(expected)
    assert not (planned / "edges" / "0-1" / "checkpoints").exists()
    assert load_file(planned / "edges" / "0-1" / "model.safetensors")["fc.weight"].shape[0] == 2
    done = train_alone(planned / "schedule.yaml", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    schedule = yaml.safe_load((planned / "schedule.yaml").read_text())
    epochs = [line["epoch"] for line in read_metrics(tmp_path / "run") if line["kind"] == "evaluation"]
    assert len(epochs) == sum(phase["epochs"] for phase in schedule["phases"])
    again = run_command(plan_command(planned / "plan.yaml", planned))
    assert again.returncode == 2 and "holds a plan already; continue with --resume" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("edge", "step"), [("0-2", 7), ("1-2", 3)])
def test_killed_and_resumed_it_finds_the_same(plan_config, planned, tmp_path, edge, step):
    run_dir = tmp_path / "run"
    with started(plan_command(plan_config, run_dir)) as process:
        wait_for_step(run_dir / "edges" / edge, step, process)
        process.kill()
    done = run_command(plan_command(plan_config, run_dir, "--resume"))
    assert done.returncode == 0, done.stdout + done.stderr

    def found(folder) -> str:
        return (folder / "plan.json").read_text().replace(str(folder), "RUN")

    assert found(run_dir) == found(planned)


@pytest.mark.slow
def test_two_ranks_plan_together(plan_config, tmp_path):
    run_dir = tmp_path / "run"
    done = run_command(plan_instead(train_command(plan_config, run_dir, "--plan.max_epochs=1", num_ranks=2)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((run_dir / "plan.json").read_text())["edges"]) == 3
    assert (run_dir / "schedule.yaml").exists() and "Traceback" not in done.stdout + done.stderr


def test_one_plan_at_a_time_writes_into_a_folder(plan_config, tmp_path):
    run_dir = tmp_path / "run"
    with locked(run_dir, Ranks(0, 1, torch.device("cpu"))):
        done = run_command(plan_command(plan_config, run_dir), fresh=True)
    assert done.returncode == 2 and "another training is writing to it" in done.stderr
    assert not (run_dir / "plan.yaml").exists()
