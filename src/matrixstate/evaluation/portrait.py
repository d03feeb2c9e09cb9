"""The figure of one layer's matrix states over a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrixstate.evaluation.inspection import Inspection, LayerTrace
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure

FRAMES = 8  # states drawn as images
LABELLED = 120  # tokens up to which the axis is labelled with them


def draw_portrait(inspection: Inspection, layer: int, tokens: Sequence[str], path: Path) -> None:
    """Draw a trace of an inspection to `path`.

    Args:
        inspection: what `inspect_states` returned.
        layer: index into `inspection.layers`.
        tokens: the text of each token.
        path: of the figure; its suffix gives the format.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    trace = inspection.layers[layer]
    strips = _strips(trace)
    figure = new_figure(13, 7.5 + 0.9 * len(strips))
    heads = trace.change.shape[1]
    heights = [0.16 * heads + 0.9] * len(strips) + [3.0, 3.2]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    figure.suptitle(f"layer {trace.layer}, {trace.mixer}: {heads} heads of {_size(trace)} states", fontsize=13)
    for part, (title, values, scale) in zip(parts, strips, strict=False):
        _draw_strip(part, title, values, scale, tokens, inspection.dropped)
    curves = parts[-2].subplots(1, 2)
    head = int(trace.change.mean(dim=0).argmax())
    _draw_singular_values(curves[0], trace, head)
    _draw_memory(curves[1], trace, inspection.dropped, tokens)
    _draw_frames(parts[-1], trace, head, tokens)
    save_figure(figure, path)


def _size(trace: LayerTrace) -> str:
    return " x ".join(map(str, trace.states.shape[2:]))


def _strips(trace: LayerTrace) -> list[tuple[str, Tensor, str]]:
    """Title, values [T, H] and colour map of each heat map of tokens by heads."""
    strips = [("change of the state at each token, divided by its norm", trace.change, "magma")]
    if trace.forget is not None:
        strips.append(("forget gate", trace.forget, "viridis"))
    strips.append(("effective rank", trace.rank, "cividis"))
    strips.append(("natural logarithm of the norm", trace.log_norm, "plasma"))
    return strips


def _draw_strip(part: Any, title: str, values: Tensor, scale: str, tokens: Sequence[str], dropped: int) -> None:
    axes = part.subplots()
    # without the first token, whose change is 1 by definition
    low, high = torch.quantile(values[1:].flatten().float(), torch.tensor([0.01, 0.99])).tolist()
    image = axes.imshow(values.T.numpy(), aspect="auto", cmap=scale, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel("head")
    _label_tokens(axes, tokens)
    axes.axvline(dropped - 0.5, color="white", linewidth=0.8, linestyle=":")
    part.colorbar(image, ax=axes, pad=0.01, fraction=0.03)


def _label_tokens(axes: Any, tokens: Sequence[str]) -> None:
    if len(tokens) > LABELLED:
        axes.set_xlabel("token")
        return
    axes.set_xticks(range(len(tokens)), [_visible(token) for token in tokens], fontsize=7, family="monospace")
    axes.tick_params(axis="x", length=0)


def _visible(token: str) -> str:
    """A token with visible spaces and line breaks, and with $ escaped, which matplotlib would take for mathematics."""
    return token.replace("\n", "⏎").replace(" ", "·").replace("$", r"\$")


def _draw_singular_values(axes: Any, trace: LayerTrace, head: int) -> None:
    for i, values in enumerate(trace.singular[:, head].T):
        axes.plot(values.numpy(), color=COLOURS[0], alpha=1.0 if i == 0 else max(0.25, 0.8 - 0.1 * i), linewidth=1.2)
    axes.set_title(f"singular values of head {head}", fontsize=10, loc="left")
    axes.set_xlabel("token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)


def _draw_memory(axes: Any, trace: LayerTrace, dropped: int, tokens: Sequence[str]) -> None:
    steps = range(dropped, len(trace.memory))
    for values in trace.memory[dropped:].T:
        axes.plot(steps, values.clamp_min(1e-6).numpy(), color=COLOURS[1], alpha=0.35, linewidth=1)
    axes.plot(steps, trace.memory[dropped:].mean(dim=1).clamp_min(1e-6).numpy(), color=COLOURS[1], linewidth=2)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(lambda value, place: "")  # labels between the powers of ten would overlap
    axes.set_title(
        f"effect of token {dropped} ({_visible(tokens[dropped])}): relative difference from the states without it",
        fontsize=10,
        loc="left",
    )
    axes.set_xlabel("token (thin: heads, thick: mean)")
    axes.grid(alpha=0.25)


def _draw_frames(part: Any, trace: LayerTrace, head: int, tokens: Sequence[str]) -> None:
    T = len(tokens)
    shown = sorted({round(i * (T - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    states = trace.states[:, head]
    reach = float(torch.quantile(states[shown].abs().flatten(), 0.99)) or 1.0
    image = None
    axes = part.subplots(1, len(shown), squeeze=False)[0]
    for ax, t in zip(axes, shown, strict=True):
        image = ax.imshow(states[t].numpy(), cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest")
        before = "".join(map(_visible, tokens[max(0, t - 7) : t + 1]))
        ax.set_title(f"…{before}" if t > 7 else before, fontsize=8, family="monospace")
        ax.set_xticks([])
        ax.set_yticks([])
    part.suptitle(f"the state of head {head}", fontsize=10, x=0.01, ha="left")
    part.colorbar(image, ax=list(axes), pad=0.01, fraction=0.02)
