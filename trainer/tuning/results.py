"""What the trials of a search reached: a table, a file and a plot."""

import pathlib
from collections.abc import Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState

from data_prep.runtime import atomic
from data_prep.runtime.setting_flags import text
from trainer.tuning import study as study_lib

CSV, PLOT = "trials.csv", "trials.png"
_SHOWN = 10
# What a trial's end is called, "stopped early" where halving ended it.
_ENDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


def write(study: optuna.Study, folder: pathlib.Path) -> None:
    """Writes `trials.csv` and `trials.png`, the best trial first.

    Args:
        study: The search.
        folder: Folder to write to.
    """
    ranked = _ranked(study)
    names = list(ranked[0].params)
    with atomic.open_csv(folder / CSV) as writer:
        writer.writerow([*names, *_FIGURES, "message"])
        for trial in ranked:
            values = [text(trial.params[name]) for name in names]
            message = trial.user_attrs.get("message", "")
            writer.writerow([*values, *_figures(trial), message])
    _plot(ranked, names, folder / PLOT)


def table(study: optuna.Study) -> str:
    """Returns the best trials, a line each.

    Args:
        study: The search.
    """
    ranked = _ranked(study)
    names = list(ranked[0].params)
    rows = [
        [*(text(trial.params[name])[:12] for name in names), *_figures(trial)]
        for trial in ranked[:_SHOWN]
    ]
    rows.insert(0, [*names, *_FIGURES])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    if more := len(ranked) - _SHOWN:
        if more > 0:
            lines.append(f"... and {more} more in {CSV}")
    return "\n".join(lines)


_FIGURES = ("val_accuracy", "val_loss", "epochs", "seconds", "trial", "end")


def _figures(trial: FrozenTrial) -> list[str]:
    """Returns the columns `_FIGURES` of a trial."""
    found = trial.user_attrs
    loss, epochs = found.get("val_loss"), len(trial.intermediate_values)
    return [
        "" if trial.value is None else f"{trial.value:.4f}",
        "" if loss is None else f"{loss:.4f}",
        str(epochs),
        f"{found.get('seconds', 0):.0f}",
        f"{trial.number:03d}",
        _ENDS[trial.state],
    ]


def _ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that are over: complete, stopped early, failed."""
    found = study.get_trials(states=study_lib.OVER)
    order = list(_ENDS)
    return sorted(
        found,
        key=lambda t: (
            order.index(t.state),
            *(-part for part in study_lib.rank(t)),
        ),
    )


def _plot(
    ranked: Sequence[FrozenTrial], names: Sequence[str], path: pathlib.Path
) -> None:
    """Draws validation accuracy over the trials, and over each setting."""
    from matplotlib.figure import Figure

    drawn = sorted(
        (t for t in ranked if t.value is not None), key=lambda t: t.number
    )
    figure = Figure(figsize=(3.2 * (len(names) + 1), 3.4), layout="constrained")
    panels = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
    panels[0].set(xlabel="trial", ylabel="validation accuracy")
    best, heights = 0.0, []
    for trial in drawn:
        if trial.state == TrialState.COMPLETE:
            best = max(best, trial.value)
        heights.append(best)
    numbers = [trial.number for trial in drawn]
    if best:
        panels[0].step(numbers, heights, where="post", color="0.6", zorder=0)
    columns = [numbers]
    for panel, name in zip(panels[1:], names, strict=True):
        panel.set_xlabel(name)
        values = [trial.params[name] for trial in drawn]
        kind = drawn[0].distributions[name] if drawn else None
        if isinstance(kind, CategoricalDistribution):
            values = [kind.choices.index(value) for value in values]
            panel.set_xticks(
                range(len(kind.choices)), [text(v) for v in kind.choices]
            )
        elif getattr(kind, "log", False):
            panel.set_xscale("log")
        columns.append(values)
    for panel, values in zip(panels, columns, strict=True):
        for state, face in (("COMPLETE", "C0"), ("PRUNED", "none")):
            here = [n for n, t in enumerate(drawn) if t.state.name == state]
            panel.scatter(
                [values[n] for n in here],
                [drawn[n].value for n in here],
                facecolors=face,
                edgecolors="C0",
                label=_ENDS[TrialState[state]],
            )
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize="small", loc="lower right")
    with atomic.replacing(path) as incomplete:
        figure.savefig(incomplete, dpi=150, format="png")
