"""Draw what metrics.jsonl of one or several training runs holds: what a person looks at while and after.

    python -m evidence.curves runs/a runs/b --output curves.png

Three rows of panels: the loss of each role, the router's load of each role's LoRAs, and cross-entropy,
gradient norm and learning rate. A step's numbers jump; a line is the mean over a window, of 1 % of the run.
The last values are printed as a table, also where matplotlib is not installed.
"""

from pathlib import Path

import numpy as np

from cli import ArgumentParser, UserError, layout, open_file, parse_object, run
from mor import ROLES

COLOURS = {"reasoner": "#0e7c86", "executor": "#b7791f", "summarizer": "#a23b8f"}  # those of data.show
STYLES = ("-", "--", ":", "-.")  # one a run


def read_steps(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl that are about steps. Raises UserError."""
    path = folder / "metrics.jsonl"
    try:
        with open_file(path) as file:
            wanted = "the metrics of a run"
            lines = [parse_object(line, f"{path}:{number}", wanted) for number, line in enumerate(file, 1)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted the folder of a run") from None
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise UserError(f"{path}: holds no step yet; wait for the first, or choose another run")
    return steps


def smoothed(steps: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of steps, and the mean of a value over windows of 1 % of the steps that have it."""
    known = [line for line in steps if line.get(name) is not None]
    width = max(1, len(known) // 100)
    numbers = np.array([line["step"] for line in known])
    values = np.array([line[name] for line in known], dtype=float)  # [steps], or [steps, LoRAs] of a load
    if not len(known):
        return numbers, values
    parts = np.arange(0, len(known), width)
    sizes = np.diff([*parts, len(known)])
    means = np.add.reduceat(values, parts) / sizes.reshape(-1, *[1] * (values.ndim - 1))
    return numbers[parts + sizes - 1], means


def table(runs: dict[str, list[dict]]) -> str:
    """The last value of each line."""
    names = ["ce", *(f"loss_{role}" for role in ROLES), "balance", "orthogonal", "grad_norm"]
    rows = [["run", "step", *names]]
    for run_name, steps in runs.items():
        cells = []
        for name in names:
            _, values = smoothed(steps, name)
            cells.append(f"{values[-1]:.4f}" if len(values) else "-")
        rows.append([run_name, str(steps[-1]["step"]), *cells])
    return layout(rows)


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Write the picture. Raises UserError without matplotlib."""
    plt = pyplot()
    figure, panels = plt.subplots(3, 3, figsize=(11, 8), layout="constrained", sharex="col")
    for style, (run_name, steps) in zip(STYLES * len(runs), runs.items(), strict=False):
        for column, role in enumerate(ROLES):
            line = {"color": COLOURS[role], "linestyle": style}
            panels[0, column].plot(*smoothed(steps, f"loss_{role}"), label=run_name, **line)
            panels[1, column].plot(*smoothed(steps, f"load_{role}"), alpha=0.7, **line)
            panels[0, column].set(title=role, ylabel="cross-entropy" if column == 0 else "")
            panels[1, column].set(ylabel="share of tokens at each LoRA" if column == 0 else "", ylim=(0, 1))
        for column, name in enumerate(("ce", "grad_norm", "lr")):
            panels[2, column].plot(*smoothed(steps, name), color="black", linestyle=style, label=run_name)
            panels[2, column].set(title=name, xlabel="step")
    for panel in (*panels[0], *panels[2, :2]):
        panel.set_yscale("log")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)


def pyplot():
    """matplotlib, told to draw without a screen and to keep text as text. Raises UserError without it."""
    try:
        import matplotlib
    except ImportError:
        wanted = "install it with `pip install '.[figures]'`"
        raise UserError(
            f"no picture: matplotlib is not installed; {wanted}; the numbers stand above"
        ) from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moragent", "font.size": 9})
    import matplotlib.pyplot

    return matplotlib.pyplot


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m evidence.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="OUTPUT", help="folders of train.py")
    where = "picture; the ending says of which kind"
    parser.add_argument("--output", type=Path, default=Path("curves.png"), metavar="FILE", help=where)
    args = parser.parse_args(argv)
    runs = {str(folder): read_steps(folder) for folder in args.runs}
    print(table(runs), end="")
    draw(runs, args.output)
    print(f"picture in {args.output}")


if __name__ == "__main__":
    import sys

    sys.exit(run(main))
