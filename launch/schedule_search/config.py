"""The configuration of a search: a run's, whose phases are to be found, and the plan that says among which."""

from dataclasses import dataclass, field, replace

from launch.schedule_search.algorithm import Edge, Outcome, PlanConfig
from launch.training.config import Config, TrainConfig
from model import ModelConfig


@dataclass(frozen=True)
class PlannedConfig(Config):
    """A run whose phases are to be found."""

    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        if self.phases:
            raise ValueError("phases: they are what is to be found; leave them out")
        if self.resume == "extend":
            raise ValueError("resume=extend: a search has its own end; use --resume")
        super().__post_init__()
        if self.train.epochs != TrainConfig.epochs:
            raise ValueError(f"train.epochs={self.train.epochs}: a plan finds them; leave it out, see plan.max_epochs")
        warmup, most = self.schedule.warmup_epochs, self.plan.max_epochs
        if warmup > most:
            raise ValueError(f"schedule.warmup_epochs={warmup} is longer than plan.max_epochs={most}")
        self.schedule_of_all()

    def base(self) -> Config:
        """Return what all edges share."""
        return Config(**{name: getattr(self, name) for name in Config.__dataclass_fields__})

    def schedule_of(self, path: list[tuple[int, int]]) -> Config:
        """Return the run of these states and epochs."""
        phases = tuple(self.plan.phase(state, epochs) for state, epochs in path)
        schedule = replace(self.schedule, warmup_epochs=min(self.schedule.warmup_epochs, phases[0].epochs))
        changes = {"run_dir": f"{self.run_dir}/trained", "resume": "never"}
        return replace(self.base(), phases=phases, schedule=schedule, **changes)

    def schedule_of_all(self) -> Config:
        """Return a run of all states, to be checked before anything is begun."""
        return self.schedule_of([(state, self.plan.max_epochs) for state in range(1, self.plan.num_states + 1)])

    def along(self, edge: Edge, start: Outcome | None) -> Config:
        """Return the training along an edge, from the outcome that made the model of its start."""
        most = self.plan.max_epochs
        config = self.base().with_clips(self.plan.phase(edge.end, most), most)
        if start is not None and start.weights is not None:  # in the place of initial ones, whose warm-up is over
            model = replace(config.model, pretrained=start.weights, init=ModelConfig.init)
            config = replace(config, model=model, schedule=replace(config.schedule, warmup_epochs=0))
        return replace(config, run_dir=f"{self.run_dir}/edges/{edge}", resume="auto")
