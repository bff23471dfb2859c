"""Draw the pictures of these pages that no command draws.

python docs/pictures.py optimizers    # docs/optimizers.png, from some hundred short trainings
python docs/pictures.py dg_p3d        # docs/dg_p3d.png
python docs/pictures.py hierarchies   # docs/hierarchies.png
python docs/pictures.py flow          # docs/flow.png
python docs/pictures.py throughput    # docs/throughput.png, from docs/throughput.json
python docs/pictures.py scaling       # docs/scaling.png, from the same
python docs/pictures.py run           # after make demo, by chromium and ffmpeg: report.png, gradcam.png, clips.png,
                                      # curves.png, long_video.png
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from launch.studies.lr_transfer.task import TaskConfig, build_network, draw_batch
from launch.training.optimizers import Lcam, SecondMomentExponent
from launch.visualization.figures import plt, save

HERE = Path(__file__).parent
TASK = TaskConfig(width=32)
STEPS_PER_EPOCH = 40


def draw_optimizers() -> Path:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), constrained_layout=True, width_ratios=(3, 2))
    _draw_lcam(left)
    rates = [10 ** (place / 3) for place in range(-11, 3)]
    for exponent in (0.0, 0.125, 0.25, 0.5):
        losses = [_final_loss(exponent, rate) for rate in rates]
        shown = [(rate, loss) for rate, loss in zip(rates, losses) if loss < 2.4]
        right.plot(*zip(*shown), ".-", label=f"exponent {exponent:g}")
    right.set(xscale="log", xlabel="learning rate", ylabel="loss after 100 steps", title="second-moment exponent")
    right.xaxis.set_major_formatter("{x:g}")
    right.legend()
    right.grid(alpha=0.3)
    return save(figure, HERE / "optimizers.png")


def _draw_lcam(axes) -> None:
    torch.manual_seed(0)
    net = build_network(TASK, 4)
    optimizer = Lcam(net.parameters(), lr=0.004, momentum_low=0.9, momentum_high=0.95)
    losses, means, momenta = [], [], []
    for step in range(3 * STEPS_PER_EPOCH):
        images, labels = draw_batch(TASK, 0, step)
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.note_loss(loss.detach(), *divmod(step, STEPS_PER_EPOCH))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        losses.append(loss.item())
        epoch = losses[step - step % STEPS_PER_EPOCH :]
        means.append(sum(epoch) / len(epoch))
    steps = range(len(losses))
    axes.plot(steps, means, color="gray", label="mean of the epoch so far")
    for momentum, color in ((0.9, "tab:blue"), (0.95, "tab:orange")):
        after = [step for step in steps[:-1] if math.isclose(momenta[step + 1], momentum)]
        axes.plot(after, [losses[step] for step in after], ".", color=color, label=f"next momentum {momentum:g}")
    axes.set(xlabel="step", ylabel="loss", title=f"LCAM, epochs of {STEPS_PER_EPOCH} steps")
    axes.legend()
    axes.grid(alpha=0.3)


def _final_loss(exponent: float, learning_rate: float) -> float:
    torch.manual_seed(0)
    net = build_network(TASK, 4)
    optimizer = SecondMomentExponent(net.parameters(), learning_rate, exponent=exponent)
    losses = []
    for step in range(100):
        images, labels = draw_batch(TASK, 0, step)
        loss = F.cross_entropy(net(images), labels)
        losses.append(loss.item())
        if not losses[-1] < 100:
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(losses[-20:]) / 20


def draw_dg_p3d() -> Path:
    figure, axes = plt.subplots(figsize=(12, 4.2), constrained_layout=True)
    axes.set(xlim=(0, 24), ylim=(1.2, 9.5))
    axes.axis("off")

    box, arrow = partial(_box, axes, height=0.84), partial(_arrow, axes)
    spatial, temporal, other = "#dbe8f6", "#fbe3c8", "#e8e8e8"
    stages = ["clip\nT", "stem 4×7×7\nT/4", "layer1\nA B C", "layer2\nA B C A", "layer3\nB C A B C A"]
    for place, text in enumerate(stages):
        box(1.3 + 2.9 * place, 8, text, color=temporal if place == 1 else other if place == 0 else spatial)
        if place:
            arrow(1.3 + 2.9 * (place - 1) + 1.1, 8, 1.3 + 2.9 * place - 1.1, 8)
    heads = ((8.9, "layer4, stride 2\nB C A"), (7.1, "layer4, stride 1\nB C A"))
    box(15.9, 7.1, "max over\n4 frames", color=temporal)
    for y, text in heads:
        box(19 if y < 8 else 17.5, y, text, 2.8)
        box(22.4, y, "mean, fc", color=other)
        arrow(20.4 if y < 8 else 18.9, y, 21.3, y)
    arrow(14, 8, 16.1, 8.9)
    arrow(14, 8, 14.8, 7.1)
    arrow(17, 7.1, 17.6, 7.1)
    axes.text(22.4, 8, "logits: the mean\nloss: the sum", ha="center", va="center", fontsize=9)

    middles = {
        "A": ["S", "T", "bn", "relu"],
        "B": ["S + T", "bn", "relu"],
        "C": ["S", "bn", "relu", "x + T(x)", "relu"],
    }
    for row, (kind, steps) in enumerate(middles.items()):
        y = 4.8 - 1.5 * row
        axes.text(0.3, y, kind, fontsize=13, va="center", weight="bold")
        for place, text in enumerate(["1×1, bn, relu", *steps, "1×1, bn"]):
            x = 2.0 + 2.35 * place
            box(x, y, text, 2.0, temporal if "T" in text else spatial)
            if place:
                arrow(x - 1.35, y, x - 1.0, y)
        end = 2.0 + 2.35 * (len(steps) + 1)
        axes.plot([end + 1.0, 18.4, 18.4], [y, y, 3.3], color="black", linewidth=1.2)
    arrow(18.4, 3.3, 19.0, 3.3)
    box(21.4, 3.3, "+ shortcut + fc₂(relu(fc₁(mean)))\nrelu", 4.8, other)
    kernels = "S: 1×3×3   T: 3×1×1, at first the identity in A and zero in B and C; orange: over time"
    axes.text(0.3, 6.0, kernels, fontsize=9)
    return save(figure, HERE / "dg_p3d.png")


def draw_hierarchies() -> Path:
    figure, axes = plt.subplots(figsize=(12, 5.6), constrained_layout=True)
    axes.set(xlim=(0, 24), ylim=(0, 11.2))
    axes.axis("off")
    frozen, trained, other, words = "#dbe8f6", "#fbe3c8", "#e8e8e8", "#d9efd9"

    box, arrow = partial(_box, axes, height=1.0), partial(_arrow, axes)
    box(1.5, 8.4, "clip\n16 frames", 2.2, other)
    rows = [("event", "e", 4, 10.2), ("set", "s", 8, 8.4), ("element", "el", 16, 6.6)]
    for place, (level, short, count, y) in enumerate(rows):
        arrow(2.6, 8.4, 3.6, y)
        box(5.6, y, f"SlowOnly\n{count} frames", 4, frozen)
        arrow(7.6, y, 8.6, y)
        box(10.2, y, f"fc 512, relu,\ndropout: {short}", 3.2, trained)
        joined = "; ".join(row[1] for row in rows[: place + 1])
        for *_, from_y in rows[: place + 1]:
            arrow(11.8, from_y, 14.2, y)
        box(15.6, y, f"[{joined}]", 2.8, other)
        arrow(17, y, 18, y)
        box(20.3, y, f"classifier of the {level}", 4.6, trained)
    axes.text(5.6, 5.6, "stage 1: with a classifier each; stage 2: frozen", ha="center", fontsize=9)
    axes.text(20.3, 5.6, "stage 2: the sum of the cross-entropies", ha="center", fontsize=9)

    tokens = ["class", "frame 1", "frame 2", "…", "frame T", "word 1", "…", "word L"]
    for place, token in enumerate(tokens):
        x = 1.5 + 2.1 * place
        box(x, 1.6, token, 1.9, other if place == 0 else words if place > 4 else frozen)
        arrow(x, 2.1, x, 3.0)
    axes.add_patch(plt.Rectangle((0.5, 3.0), 16.8, 0.9, facecolor=trained, edgecolor="black"))
    axes.text(8.9, 3.45, "transformer encoder", ha="center", va="center", fontsize=9)
    axes.plot([1.5, 1.5, 18], [3.9, 4.5, 4.5], color="black", linewidth=1.2)
    arrow(18, 4.5, 18.2, 4.5)
    box(20.3, 4.5, "classifier of the element", 4.2, trained)
    axes.text(6.7, 0.6, "a CNN's features of each frame", ha="center", fontsize=9)
    axes.text(14.1, 0.6, "the set's name, never the element's", ha="center", fontsize=9)
    return save(figure, HERE / "hierarchies.png")


def draw_flow() -> Path:
    figure, axes = plt.subplots(figsize=(12, 4.4), constrained_layout=True)
    axes.set(xlim=(0, 24), ylim=(0, 8.8))
    axes.axis("off")
    once, after = "#fbe3c8", "#d9efd9"
    box, arrow = partial(_box, axes), partial(_arrow, axes)
    box(2.1, 7, "videos\nannotation files", 3.6, "#e8e8e8")
    arrow(3.9, 7, 5.5, 7)
    box(7.3, 7, "pack\ndecode, encode, count;\nlist the failures", 3.6, once)
    arrow(9.1, 7, 10.7, 7)
    box(14.2, 7, "tar shards, DALI index, table, manifest\nlocal disk, S3, a web server", 7, once)
    colours = "orange: once, resumable, the same\nbytes with any number of workers\nblue: training; green: after it"
    axes.text(20.8, 7, colours, ha="center", va="center", fontsize=9)
    box(2.6, 4.4, "plan(seed, epoch, step)\nsamples, frames, crops,\nflips, colours", 4.2, height=1.9)
    arrow(4.7, 4.4, 6.2, 4.4, "ClipPlan")
    axes.plot([14.2, 14.2], [6.25, 4.4], color="black", linewidth=1)
    arrow(14.2, 4.4, 10.4, 4.4, "byte ranges")
    box(8.3, 4.4, "worker processes\nonly the bytes needed\n(H.264 on a CPU: PyAV\ndecodes here)", 4.2, height=1.9)
    arrow(8.3, 3.45, 8.3, 2.6)
    box(8.3, 1.7, "one DALI graph\ndecode JPEG or NVDEC, crop,\nscale, flip, normalise", 4.2, height=1.8)
    arrow(10.4, 1.7, 12.3, 1.7, "VideoBatch")
    box(14.6, 1.7, "the network\nunder DeepSpeed", 4.6, height=1.8)
    arrow(16.9, 1.7, 18.6, 1.7)
    box(20.9, 1.7, "checkpoint: network, optimizer,\n(epoch, step), settings, classes", 4.7, height=1.8)
    axes.plot([20.9, 20.9, 2.6], [0.8, 0.25, 0.25], color="black", linewidth=1)
    arrow(2.6, 0.25, 2.6, 3.45)
    axes.text(2.8, 0.4, "resume: epoch and step", fontsize=8)
    arrow(20.9, 2.6, 20.9, 3.5)
    box(20.9, 4.4, "evaluate, predict, export,\nvisualize: the same packing\nand the same graph", 4.7, after, 1.8)
    return save(figure, HERE / "flow.png")


def draw_throughput() -> Path:
    """Draw the loaders in docs/throughput.json as bars, and how often ours does what decord does in the same run; next
    to them what a GPU takes."""
    measured = json.loads((HERE / "throughput.json").read_text())
    gpu = measured["gpu"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.7), constrained_layout=True, width_ratios=(3, 2))
    loaders = [
        (loader["name"], loader["clips_per_second"], loader.get("over_decord")) for loader in measured["loaders"]
    ]
    _draw_rates(left, measured, [(name, rate, ratio and f"{ratio:g} × decord") for name, rate, ratio in loaders])
    training = gpu["rates"][-1]["clips_per_second"]
    rates = [(each["name"], each["clips_per_second"]) for each in gpu["rates"]]
    _draw_rates(right, gpu, [(name, rate, f"{rate / training:.1f} × training") for name, rate in rates])
    right.patches[0].set_color("tab:gray")
    notes = [f"{each['command']}\n{each['conditions']}" for each in (measured, gpu)]
    figure.supxlabel("\n".join(notes), fontsize=6.5, color="dimgray")
    return save(figure, HERE / "throughput.png")


def _draw_rates(axes, measured: dict, rates: list[tuple[str, float, str | None]]) -> None:
    """Draw (name, clips per second, what it is of another) as bars, the fastest on top, those without the last grey."""
    rates = sorted(rates, key=lambda rate: rate[1])
    for place, (_, speed, times) in enumerate(rates):
        axes.barh(place, speed, color="tab:blue" if times else "tab:gray")
        said = f"  ({times})" if times and not times.startswith("1.0 ×") else ""
        axes.text(speed, place, f" {speed:,.0f}{said}", va="center", fontsize=9)
    axes.set_yticks(range(len(rates)), [name for name, *_ in rates])
    axes.set_xlim(0, 1.35 * rates[-1][1])
    axes.set_title(measured["title"], fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(measured["what"], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_scaling() -> Path:
    """Draw how many clips a second more worker processes decode, and how many a GPU trains on."""
    measured = json.loads((HERE / "throughput.json").read_text())["scaling"]
    figure, axes = plt.subplots(figsize=(7, 3.4), constrained_layout=True)
    processes, rates = measured["processes"], measured["clips_per_second"]
    axes.plot(processes, rates, "o-", label="decoding, h264 shards")
    for count, rate in zip(processes, rates):
        axes.annotate(f"{rate:,}", (count, rate), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(measured["training"], color="tab:gray", linestyle="--", label="training VPSN-50 on the GPU")
    axes.set(xlabel="worker processes", ylabel="clips/s", ylim=(0, 1.15 * max(rates)), xticks=processes)
    axes.set_title(f"{measured['command']}: {measured['conditions']}", fontsize=7.5)
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    return save(figure, HERE / "scaling.png")


RUN, VIDEOS = Path("runs/demo"), Path("data/demo/videos/val")


def draw_run() -> list[Path]:
    """Draw what commands make of the run of make demo."""
    videos = [sorted((VIDEOS / name).glob("*.mp4"))[3] for name in ("turn_clockwise", "left", "grow")]
    _visualize("gradcam", RUN, videos[0], "--stage", "layer3", "--out", HERE / "gradcam.png")
    _visualize("clips", RUN, "--num-clips", "3", "--out", HERE / "clips.png")
    _visualize("curves", RUN, "--out", HERE / "curves.png")
    with tempfile.TemporaryDirectory() as scratch:
        _draw_long_video(videos, Path(scratch))
        page = Path(scratch) / "report.html"
        _visualize("report", RUN, "--mistakes", "4", "--out", page)
        browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
        headless = (browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--log-level=3")
        size = ("--window-size=1180,1700", f"--user-data-dir={scratch}/user", "--virtual-time-budget=3000")
        _call(*headless, *size, f"--screenshot={HERE / 'report.png'}", f"file://{page}")
    drawn = [HERE / f"{name}.png" for name in ("gradcam", "clips", "curves", "long_video", "report")]
    for path in drawn:
        _shrink(path)
    return drawn


def _shrink(path: Path) -> None:
    """Write a picture again in 128 colours, and at most 1,200 pixels wide."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((1200, 4000))
    small.quantize(128).save(path, optimize=True)


def _draw_long_video(videos: list[Path], scratch: Path) -> None:
    """Draw frames of the overlay of a long video, which is these videos one after the other."""
    parts = scratch / "parts.txt"
    parts.write_text("".join(f"file '{video.resolve()}'\n" for video in videos))
    long, overlay = scratch / "long.mp4", scratch / "overlay.mp4"
    _call("ffmpeg", "-loglevel", "error", "-f", "concat", "-safe", "0", "-i", parts, "-c", "copy", long)
    windows = ("--window", "2", "--stride", "0.5", "--overlay", overlay)
    _call(sys.executable, "launch/predict.py", "--checkpoint", RUN, *windows, long)
    rate, seconds = 2, [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    _call("ffmpeg", "-loglevel", "error", "-i", overlay, "-vf", f"fps={rate}", scratch / "%03d.png")
    figure, places = plt.subplots(2, 3, figsize=(9, 6.4), constrained_layout=True)
    for axes, second in zip(places.flat, seconds):
        axes.imshow(plt.imread(scratch / f"{int(rate * second) + 1:03d}.png"))
        axes.set_title(f"{second:g} s", fontsize=9)
        axes.axis("off")
    save(figure, HERE / "long_video.png")


def _visualize(*arguments: object) -> None:
    _call(sys.executable, "launch/visualize.py", *arguments)


def _call(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True)


def _box(axes, x: float, y: float, text: str, width: float = 2.2, color: str = "#dbe8f6", height: float = 1.5) -> None:
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(plt.Rectangle(corner, width, height, facecolor=color, edgecolor="black"))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(axes, x0: float, y0: float, x1: float, y1: float, text: str = "") -> None:
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0})
    axes.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.2, text, ha="center", fontsize=8)


PICTURES = {
    "optimizers": draw_optimizers,
    "dg_p3d": draw_dg_p3d,
    "hierarchies": draw_hierarchies,
    "flow": draw_flow,
    "throughput": draw_throughput,
    "scaling": draw_scaling,
    "run": draw_run,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PICTURES.keys() - {"run"}:
        print(PICTURES[name]())
