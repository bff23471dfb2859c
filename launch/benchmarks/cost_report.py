"""A plan of costs as text, with what it rests on, and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from launch.benchmarks.cost import ASSUMED, Cost, Means, Rate, loader_cores
from launch.benchmarks.measurements import Profile
from launch.benchmarks.report import table
from launch.visualization.figures import plt, save

RATE = ("device", "its rate is", "clips/s")


def describe_costs(means: Means, costs: Sequence[Cost]) -> str:
    """Two tables for each dataset, and one of the loader's cores, which are the same for all."""
    gpus = [rate for rate in means.rates if rate.kind == "gpu"]
    known = any(rate.basis != ASSUMED for rate in gpus)
    lines = [f"{means.recipe.training}, {means.recipe.epochs} epochs"]
    if not known:
        lines.append("No GPU's rate of training was measured or given: what is said of GPUs is said of assumed rates.")
    for cost in costs:
        lines += ["", f"{cost.name}: {cost.train_videos:,} training and {cost.val_videos:,} validation videos"]
        lines += [_storage_table(cost), "", _training_table(cost)]
        if not known:
            lines.append(f"GPU-hours = {_show(cost.clips / 3600)} / (clips/s of one GPU)")
    if gpus:
        counts = " / ".join(map(str, means.gpus))
        lines += ["", f"CPU cores for a loader that lets {counts} GPUs wait at most {means.max_stall:.0%} of the time"]
        lines.append(_loader_table(means, gpus))
    return "\n".join(lines)


def _storage_table(cost: Cost) -> str:
    columns = {
        "GB": cost.gigabytes,
        "core-hours to pack": cost.packing_core_hours,
        f"hours, {cost.means.workers} workers": cost.packing_hours,
        "hours to first step": cost.first_step_hours,
        "clips/s loaded a core": lambda profile: profile.clips_per_core_second,
        f"core-hours to load {cost.means.recipe.epochs} epochs": cost.loading_core_hours,
    }
    rows = [
        (profile.profile, f"{profile.kilobytes_per_video:,.0f}", *(_show(value(profile)) for value in columns.values()))
        for profile in cost.means.figures.profiles
    ]
    return table(("profile", "kB/video", *columns), rows)


def _training_table(cost: Cost) -> str:
    counts = cost.means.gpus
    rows = [(*_name(rate), *(_show(cost.training_hours(rate, n)) for n in (1, *counts))) for rate in cost.means.rates]
    return table((*RATE, "device-hours", *(f"hours on {count}" for count in counts)), rows)


def _loader_table(means: Means, rates: Sequence[Rate]) -> str:
    def cores(profile: Profile, rate: Rate) -> str:
        needed = [rate.clips_per_second * count for count in means.gpus]
        return " / ".join(f"{loader_cores(profile.clips_per_core_second, n, means.max_stall):,}" for n in needed)

    profiles = means.figures.profiles
    rows = [(*_name(rate), *(cores(profile, rate) for profile in profiles)) for rate in rates]
    return table((*RATE, *(profile.profile for profile in profiles)), rows)


def _name(rate: Rate) -> tuple[str, str, str]:
    """The cells under RATE."""
    return rate.device, rate.basis, f"{rate.clips_per_second:.4g}"


def _show(value: float) -> str:
    """Two digits of what is below 10, whole numbers above: no more than a measurement is worth.

    >>> [_show(value) for value in (0.1234, 7.87, 15.4, 5333.3)]
    ['0.12', '7.9', '15', '5,333']
    """
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def describe_basis(means: Means) -> str:
    """What a plan rests on: assumptions, and the commands that measured its figures."""
    recipe, figures, [first] = means.recipe, means.figures, means.figures.first_batch
    counts = ", ".join(map(str, means.gpus))
    shares = ", ".join(str(recipe.batch_size // count) for count in means.gpus)
    samples = "; ".join(dict.fromkeys(record.note for record in figures.profiles if record.note))
    assumptions = [
        f"the recipe's {recipe.epochs} epochs in batches of {recipe.batch_size}; validation is not in the hours",
        "videos as long and as large as those of the measured sample" + (f" ({samples})" if samples else ""),
        "GB, packing and first step: training and validation videos; the originals and fetching them come on top",
        "packing and loading: linear over cores, each as fast as one of those that were measured",
        f"training: linear over devices, though the batch leaves each of {counts} GPUs {shares} clips a step",
        f"hours: of GPUs that never wait; cores: of a loader that lets them wait {means.max_stall:.0%} of the time on "
        "average, with no reserve for busy moments",
        "the loader decodes, scales and crops on the CPU; what a GPU that decodes would save was not measured",
        f"first step: {first.seconds:g} s after packing, with the first batch; the start of Python and of DeepSpeed "
        "comes on top",
    ]
    subjects = [("packing, loading", record) for record in figures.profiles]
    subjects += [(f"training on {record.device}", record) for record in figures.training]
    subjects.append((f"first batch of {first.videos:,} videos", first))
    sources = dict.fromkeys(f"{what}: {it.command} ({it.machine}; {it.date})" for what, it in subjects)
    sections = {"Assumed": assumptions, "Measured, and used where nothing is given": sources}
    return "\n".join("\n- ".join([title, *lines]) for title, lines in sections.items())


def draw_costs(means: Means, costs: Sequence[Cost], path: Path) -> Path:
    """Draws the hours of training over the number of GPUs, a plot a dataset, and the GB of each profile."""
    size = (4.6 * (len(costs) + 1), 4.2)
    picture, (*plots, storage) = plt.subplots(1, len(costs) + 1, figsize=size, constrained_layout=True)
    for axes, cost in zip(plots, costs):
        for rate in means.rates:
            # A CPU is there to compare with; nobody asks for 64 of them.
            counts = means.gpus if rate.kind == "gpu" else [1]
            style = "k*" if rate.kind == "cpu" else ".--" if rate.basis == ASSUMED else ".-"
            hours = [cost.training_hours(rate, count) for count in counts]
            axes.plot(counts, hours, style, markersize=8, label="{0}, {2} clips/s, {1}".format(*_name(rate)))
        axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="hours of training")
        axes.set_title(f"{cost.name}, {cost.clips / 1e6:,.1f} million clips", fontsize=11)
        axes.set_xticks(means.gpus, [str(count) for count in means.gpus])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.legend(fontsize=7)
    profiles, width = means.figures.profiles, 0.8 / len(costs)
    for place, cost in enumerate(costs):
        lefts = [index + place * width for index in range(len(profiles))]
        sizes = [cost.gigabytes(profile) for profile in profiles]
        bars = storage.bar(lefts, sizes, width, align="edge", label=cost.name)
        storage.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    storage.set_xticks([index + 0.4 for index in range(len(profiles))], [profile.profile for profile in profiles])
    storage.set_ylabel("GB")
    storage.set_title("both splits packed", fontsize=11)
    storage.legend(fontsize=8)
    for axes in (*plots, storage):
        axes.grid(alpha=0.3)
    return save(picture, path)
