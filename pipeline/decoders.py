"""Which decode node suits a dataset on a device: known, tried, measured, and recorded for the next run.

    choose_decoder("auto", dataset, device, Trial(measure=clips_per_second, gather=gather_over_ranks))

On a CPU one node fits a dataset. On a GPU two do, one that decodes on the CPU and one on the GPU, and which of them is
faster depends on cores, GPU, driver and videos: auto takes the faster one, and never an unmeasured one that decodes on
the GPU. All ranks come to the same choice.
"""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from pipeline.config import JPEG_DECODERS
from pipeline.decode_speeds import read_speeds, write_speeds
from pipeline.nvdec import unsuitable
from pipeline.nvdec_probe import NvdecProbe, probe_nvdec
from sharding.dataset import PackedDataset
from sharding.errors import UserError

log = logging.getLogger("pipeline.decoders")

Speeds = dict[str, float]
Reasons = dict[str, str]
"""Why a decode node is out."""


def _alone(value: object) -> list:
    return [value]


@dataclass(frozen=True)
class Trial:
    """What decode nodes are tried with, on all ranks of a run alike."""

    measure: Callable[[str], float] | None = None
    """Clips per second, on this rank, of the run's own loader with a decode node; takes some seconds, on all ranks at
    the same time. What it raises excludes the node. None: nothing is measured."""
    gather: Callable[[object], list] = _alone
    """What each rank gives, by rank, on all of them; called by all of them together."""
    probe: Callable[[int], NvdecProbe] = probe_nvdec
    """Whether NVDEC works on the GPU of this index."""
    parameters: Collection[bytes] | None = None
    """The distinct codec parameters of the samples, if they are known; see `pipeline.nvdec.unsuitable`."""


_UNMEASURED = Trial()


def choose_decoder(decoder: str, dataset: PackedDataset, device: torch.device, trial: Trial = _UNMEASURED) -> str:
    """Return the decode node that `decoder`, which is data.decoder, means for a dataset on a device.

    Of two that fit, auto takes the faster one: as recorded for such a machine, else as measured now, where each is as
    fast as on the slowest rank; else the one that decodes on the CPU.

    Raises:
        UserError: a node that cannot decode what the dataset stores, or that does not work on this machine.
    """
    fitting = fitting_decoders(dataset, device)
    if decoder != "auto":
        _check_asked(decoder, fitting, dataset, device, trial)
        return decoder
    if len(fitting) == 1:
        return fitting[0]
    choice, speeds, reasons = _choose(fitting, dataset, device, trial)
    numbers = ", ".join(f"{node} {speed:,.0f}" for node, speed in speeds.items())
    words = [f"{numbers} clips/s per rank"] if numbers else []
    words += [f"without {node}: {reason}" for node, reason in reasons.items()]
    log.info("data.decoder=auto takes %s; %s", choice, "; ".join(words) or f"none of {', '.join(fitting)} was measured")
    return choice


def fitting_decoders(dataset: PackedDataset, device: torch.device) -> list[str]:
    """Return the decode nodes for what the dataset stores on this device, the one that decodes on the CPU first.

    Raises:
        UserError: it stores both videos and JPEGs.
    """
    stores_jpegs = {suffix == "jpgs" for suffix in dataset.suffixes}
    if len(stores_jpegs) > 1:
        raise UserError(f"{dataset.directory}: stores both videos and JPEGs; pack them as two datasets")
    nodes: list[str] = [*JPEG_DECODERS] if stores_jpegs == {True} else ["pyav", "nvdec"]
    return nodes if device.type == "cuda" else nodes[:1]


def working_decoders(
    dataset: PackedDataset, device: torch.device, trial: Trial = _UNMEASURED
) -> tuple[list[str], Reasons]:
    """Return the fitting decode nodes without nvdec where that does not work on all ranks, and then the reason.

    Raises:
        UserError: the dataset stores both videos and JPEGs.
    """
    fitting = fitting_decoders(dataset, device)
    if "nvdec" not in fitting:
        return fitting, {}
    reason, _ = _nvdec_problem(dataset, device, trial)
    return (["pyav"], {"nvdec": reason}) if reason else (fitting, {})


def _check_asked(decoder: str, fitting: list[str], dataset: PackedDataset, device: torch.device, trial: Trial) -> None:
    """Raise UserError if a node that was asked for does not suit the dataset or the machine."""
    on_cpu = fitting[0]
    if decoder not in fitting:
        if decoder == {"pyav": "nvdec", "jpeg": "nvjpeg"}[on_cpu]:
            raise UserError(f"data.decoder={decoder} needs a GPU, and this run has none; use data.decoder={on_cpu}")
        stored, nodes = ("JPEGs", "jpeg or nvjpeg") if on_cpu == "jpeg" else ("videos", "pyav or nvdec")
        raise UserError(f"data.decoder={decoder}: {dataset.directory} stores {stored}; use auto or {nodes}")
    if decoder == "nvdec":
        reason, remedy = _nvdec_problem(dataset, device, trial)
        if reason:
            remedies = ", or ".join(filter(None, (remedy, "use data.decoder=pyav")))
            raise UserError(f"data.decoder=nvdec: {reason}; {remedies}")


def _nvdec_problem(dataset: PackedDataset, device: torch.device, trial: Trial) -> tuple[str, str]:
    """Return why NVDEC cannot be used, and what to do about that: of the first rank where it cannot; else empty."""

    def on_this_rank() -> tuple[str, str]:
        if reason := unsuitable(dataset, trial.parameters):
            return reason, ""
        found = trial.probe(device.index or 0)
        if not found.works:
            return f"NVDEC does not work here: {found.reason}", found.remedy
        return unsuitable(dataset, trial.parameters, found.min_size, found.max_size), ""

    return next((problem for problem in trial.gather(on_this_rank()) if problem[0]), ("", ""))


def _choose(
    fitting: list[str], dataset: PackedDataset, device: torch.device, trial: Trial
) -> tuple[str, Speeds, Reasons]:
    """Return auto's choice of several nodes, the speeds it was made by, and why others are out.

    Whatever decides is the same on all ranks, so all of them gather equally often.
    """
    recorded = trial.gather(read_speeds(dataset, device))[0]
    if all(node in recorded for node in fitting):
        speeds, reasons = {node: recorded[node] for node in fitting}, {}
        if _fastest(speeds) == "nvdec":  # it may not work in every container
            working, reasons = working_decoders(dataset, device, trial)
            speeds = {node: speeds[node] for node in working}
        return _fastest(speeds), speeds, reasons
    if trial.measure is None:
        return fitting[0], {}, {}
    working, reasons = working_decoders(dataset, device, trial)
    if len(working) == 1:
        return working[0], {}, reasons
    speeds, reasons = _measure_nodes(working, trial)
    if not speeds:  # the run itself will name what is wrong
        return fitting[0], {}, reasons
    if not reasons and os.environ.get("RANK", "0") == "0":
        _record(dataset, device, speeds)
    return _fastest(speeds), speeds, reasons


def _measure_nodes(nodes: list[str], trial: Trial) -> tuple[Speeds, Reasons]:
    """Return the speed of each node on the slowest rank, and of those that failed on any what was raised there."""
    assert trial.measure is not None
    speeds, failed = {}, {}
    for node in nodes:
        speed, problem = 0.0, ""
        try:
            speed = trial.measure(node)
        except Exception as error:  # of whatever kind: another node may do
            problem = " ".join(str(error).split()) or type(error).__name__
        results = trial.gather((speed, problem))
        problems = [problem for _, problem in results if problem]
        if problems:
            failed[node] = problems[0]
        else:
            speeds[node] = min(speed for speed, _ in results)
    return speeds, failed


def _fastest(speeds: Speeds) -> str:
    return max(speeds, key=lambda node: speeds[node])


def _record(dataset: PackedDataset, device: torch.device, speeds: Speeds) -> None:
    try:
        write_speeds(dataset, device, speeds)
    except OSError as error:
        log.info("%s: speeds of decoding are not recorded: %s", dataset.location, error.strerror)
