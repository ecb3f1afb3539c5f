"""Draw Figs. 4 and 5, and BFCL against the tokens seen, from the result files alone.

    python -m evidence.figures                 docs/figures/*.svg and *.png, where there are results
    python -m evidence.figures --only curve    one of them: curve, fig4, fig5

The numbers of each are printed as a table first, also where matplotlib is not installed. The same results
give the same bytes with the same matplotlib.
"""

from functools import partial
from pathlib import Path

import numpy as np

from cli import ArgumentParser, run, write_whole
from evaluation.compare import OverSeeds, over_seeds
from evidence import report
from evidence.curves import COLOURS, pyplot
from evidence.report import UNSEEN, Study
from evidence.study import ROOT
from mor import ROLES

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # apart for all kinds of colour vision
METHODS = {"MoR": (BLUE, "o"), "LoRA": (ORANGE, "s")}
CHOSEN = {"reasoner": (4, 5), "executor": (4, 5), "summarizer": (3, 4)}  # the paper's: active, in total
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


# ---- BFCL against tokens ----


def draw_curve(study: Study, plt):
    """Calls on the left, questions that want none on the right. None without results of both methods."""
    curves = report.curve(study)
    if any(len(by_steps) < 2 for by_steps in curves.values()):
        return None
    titles = {"mean of calls": "calls wanted: six categories", "mean of no call": "no function fits: two"}
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.3), layout="constrained", sharey=True)
    for panel, (name, title) in zip(panels, titles.items(), strict=True):
        ends = {}
        for method, by_steps in curves.items():
            ends[method] = draw_method(panel, method, by_steps, name)
        label_ends(panel, ends)
        panel.set_title(title, fontsize=10)
        panel.set(xlabel="thousand tokens of training; 0: the base", ylim=(0, 100))
        panel.margins(x=0.16)
    panels[0].set_ylabel("questions of BFCL right, %")
    return figure


def draw_method(panel, method: str, by_steps: dict[int, list[dict]], name: str) -> tuple[float, float]:
    """A line with 95 % intervals, a little to one side so that two do not hide each other; its end."""
    colour, mark = METHODS[method]
    found = [means(results, name) for results in by_steps.values()]
    tokens = np.array([results[0].get("tokens", 0) / 1e3 for results in by_steps.values()])
    aside = tokens[-1] * (-0.008 if method == "MoR" else 0.008)
    values = 100 * np.array([[each.mean, each.low, each.high] for each in found])  # [points, 3]
    spans = [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]
    panel.errorbar(
        tokens + aside,
        values[:, 0],
        np.maximum(spans, 0),
        color=colour,
        marker=mark,
        capsize=2,
        markersize=4.5,
    )
    return tokens[-1], values[-1, 0]


def means(results: list[dict], name: str) -> OverSeeds:
    """One of report.MEANS, over the seeds."""
    return over_seeds([report.bfcl_rows(result)[name] for result in results])


def label_ends(panel, ends: dict[str, tuple[float, float]]) -> None:
    """The name of each line at its end, the higher one above where two are near."""
    order = sorted(ends, key=lambda method: ends[method][1])
    near = ends[order[1]][1] - ends[order[0]][1] < 8
    for method, shift in zip(order, (-5, 5) if near else (0, 0), strict=True):
        colour, _ = METHODS[method]
        where = {"xytext": (8, shift), "textcoords": "offset points", "va": "center"}
        panel.annotate(method, ends[method], color=colour, weight="bold", **where)


# ---- Fig. 4 ----


def draw_figure_4(study: Study, plt):
    """Loss and nearness by the number of LoRAs, a column for each role. None while results are missing."""
    if not report.is_figure_4_whole(study):
        return None
    figure, panels = plt.subplots(2, 3, figsize=(7.5, 4.6), layout="constrained", sharex=True, sharey="row")
    for column, role in enumerate(ROLES):
        found = of_role(study, role)
        losses = {n: [report.loss(r, UNSEEN, role) for r in results] for n, results in found.items()}
        near = {n: [100 * report.nearness(r, UNSEEN, role) for r in results] for n, results in found.items()}
        for panel, values in zip(panels[:, column], (losses, near), strict=True):
            draw_counts(panel, values, role)
        panels[0, column].set_title(finding(role, losses), fontsize=9)
    panels[0, 0].text(
        4.05, 1, "paper:\n4 of 5", transform=panels[0, 0].get_xaxis_transform(), va="top", fontsize=8
    )
    panels[0, 0].set_ylabel("cross-entropy, a token")
    panels[1, 0].set_ylabel("Levenshtein accuracy, %")
    panels[1, 1].set_xlabel("LoRAs, and the rank of the one LoRA that they are without a router")
    return figure


def of_role(study: Study, role: str) -> dict[int, list[dict]]:
    """Results of a role alone, by the number of LoRAs."""
    runs = study.whole("Fig. 4").items()
    return {int(method.split(", ")[1]): each for method, each in runs if method.startswith(role)}


def draw_counts(panel, values: dict[int, list[float]], role: str) -> None:
    """A dot for each seed, a line through the means, a band where the paper's choice is."""
    counts = list(values)
    for count, each in values.items():
        panel.plot([count] * len(each), each, "o", color=COLOURS[role], markersize=4, alpha=0.6)
    panel.plot(counts, [np.mean(each) for each in values.values()], color=COLOURS[role])
    panel.axvspan(*CHOSEN[role], color="#e4e4e4", linewidth=0, zorder=0)
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [f"{count}\n{2 * count}" for count in counts])
    panel.minorticks_off()


def finding(role: str, losses: dict[int, list[float]]) -> str:
    """What the column shows, in a line."""
    of = {count: np.mean(each) for count, each in losses.items()}
    most, some = max(of), CHOSEN[role][0] if CHOSEN[role][0] in of else 4
    return f"{role}: {100 * (of[most] / of[some] - 1):+.1f} % loss\nfrom {some} LoRAs to {most}"


# ---- Fig. 5 ----


def draw_figure_5(study: Study, plt):
    """The paper's matrices, and all linears below them. None without both results."""
    rivals = {name: results[0]["similarity"] for name, results in report.orthogonal_rivals(study).items()}
    if len(rivals) < 2:
        return None
    without, with_loss = rivals["without"], rivals["with (MoR)"]
    figure = plt.figure(figsize=(7.5, 7.2), layout="constrained")
    figure.suptitle(
        f"cosines of BA: above of {with_loss['shown']['linear']}, below of every linear", fontsize=9
    )
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 1.2))
    for row, (name, found) in enumerate((("without", without), ("with", with_loss))):
        for column, role in enumerate(ROLES):
            panel = figure.add_subplot(grid[row, column])
            draw_matrix(panel, found["shown"][role])
            panel.set_title(role if row == 0 else "", fontsize=9)
            panel.set_ylabel(f"{name} orthogonal loss" if column == 0 else "")
    strips = grid[2, :].subgridspec(1, 3).subplots(sharey=True)
    for panel, role in zip(strips, ROLES, strict=True):
        draw_strip(panel, role, without, with_loss)
        panel.set_title(role, fontsize=9)
    strips[0].set_ylabel("mean |cosine| of two LoRAs")
    figure.legend(*strips[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_matrix(panel, cosines: list[list[float | None]]) -> None:
    """A matrix of cosines with the number in each cell; the diagonal is 1 and grey."""
    values = np.array(cosines, dtype=float)
    np.fill_diagonal(values, np.nan)
    panel.set_facecolor("#d0d0d0")
    at = np.arange(len(values))
    panel.pcolormesh(at, at, values, cmap="RdBu_r", vmin=-1, vmax=1)
    panel.invert_yaxis()
    panel.set_aspect("equal")
    for (i, j), value in np.ndenumerate(values):
        panel.text(j, i, "1" if i == j else f"{value:.2f}", ha="center", va="center", fontsize=8)
    panel.set_xticks(at, at + 1)
    panel.set_yticks(at, at + 1)
    panel.set_xlabel(f"routed LoRA; mean |cosine| {np.nanmean(abs(values)):.2g}", fontsize=8)


def draw_strip(panel, role: str, without: dict, with_loss: dict) -> None:
    """Each linear's mean |cosine|, by its kind: of a role's LoRAs, and of LoRAs of two roles."""
    rows = (
        ("without the loss", without["roles"][role]["cosine"], ORANGE, "s", -0.22),
        ("with it", with_loss["roles"][role]["cosine"], BLUE, "o", 0.0),
        ("two roles, with it: chance", with_loss["between"]["cosine"], GREY, "x", 0.22),
    )
    kinds = [name.rsplit(".", 1)[1] for name in with_loss["linears"]]
    places = [kind for kind in MODULES if kind in kinds]
    for label, values, colour, mark, aside in rows:
        at = [places.index(kind) + aside for kind in kinds]
        panel.plot(at, values, mark, color=colour, label=label, markersize=3.5, alpha=0.8)
    panel.set_yscale("log")
    panel.set_xticks(range(len(places)), [kind.removesuffix("_proj") for kind in places], fontsize=8)


# ---- all ----

FIGURES = {  # study, table, picture
    "curve": ("smollm2", "curve", draw_curve),
    "fig4": ("tiny", "Fig. 4", draw_figure_4),
    "fig5": ("tiny", "Fig. 5", draw_figure_5),
}


def save(figure, path: Path) -> None:
    """Write a picture as SVG and PNG, without a date."""
    of_png = {"dpi": 90, "pil_kwargs": {"optimize": True}, "metadata": {"Software": None}}
    for ending, options in (("svg", {"metadata": {"Date": None}}), ("png", of_png)):
        write_whole(path.with_suffix(f".{ending}"), partial(figure.savefig, format=ending, **options))


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m evidence.figures", description=__doc__)
    parser.add_argument("--only", choices=[*FIGURES], help="one picture")
    where = "folder of the pictures"
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures", metavar="DIR", help=where)
    args = parser.parse_args(argv)
    names = [args.only] if args.only else [*FIGURES]
    studies = {name: Study(FIGURES[name][0]) for name in names}
    for name, study in studies.items():
        print(f"{name}\n\n{report.TABLES[FIGURES[name][1]](study) or 'Not run yet.'}")
    plt = pyplot()
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams["font.sans-serif"] = ["DejaVu Sans"]  # a long list would stand with each text of an SVG
    args.output.mkdir(parents=True, exist_ok=True)
    for name, study in studies.items():
        if figure := FIGURES[name][2](study, plt):
            save(figure, args.output / name)
            plt.close(figure)
            print(f"picture in {args.output / name}.svg and .png")


if __name__ == "__main__":
    import sys

    sys.exit(run(main))
