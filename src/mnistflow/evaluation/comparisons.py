"""Two models compared on the same test images, and all models in a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from mnistflow.data.arrays import Labels
from mnistflow.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Comparison:
    """A model compared with a baseline on the same test images."""

    gain: float  # accuracy of the model minus accuracy of the baseline
    fixed: int  # images that only the baseline gets wrong
    introduced: int  # images that only the model gets wrong
    mcnemar_p: float  # the probability of counts as uneven or more, if both models were equally good

    def __str__(self) -> str:
        """The comparison in words."""
        return (
            f"{100 * self.gain:+.2f} points, {self.fixed} errors fixed, {self.introduced} introduced, "
            f"McNemar p = {self.mcnemar_p:.2g}"
        )


def compare(labels: Labels, baseline: npt.NDArray[Any], model: npt.NDArray[Any]) -> Comparison:
    """Compare two models' predictions of the same images, by McNemar's exact test (McNemar 1947)."""
    from scipy.stats import binomtest

    baseline_correct, model_correct = baseline == labels, model == labels
    fixed = int((model_correct & ~baseline_correct).sum())
    introduced = int((baseline_correct & ~model_correct).sum())
    p = float(binomtest(fixed, fixed + introduced, 0.5).pvalue) if fixed + introduced else 1.0
    return Comparison((fixed - introduced) / len(labels), fixed, introduced, p)


def pairs(evaluations: Mapping[str, Predictions], baseline: str, selected: str) -> list[dict[str, Any]]:
    """The rows of comparison.json: each model compared with the baseline, and with the selected model."""
    compared = [(name, baseline) for name in evaluations if name != baseline]
    if selected != baseline:
        compared += [(name, selected) for name in evaluations if name not in (baseline, selected)]
    labels = evaluations[baseline].labels
    return [
        {
            "model": name,
            "baseline": other,
            **asdict(compare(labels, evaluations[other].predictions, evaluations[name].predictions)),
        }
        for name, other in compared
    ]


def table(metrics: Mapping[str, Mapping[str, Any]], comparison: Mapping[str, Any]) -> list[str]:
    """The models' metrics and their comparison with the baseline, as lines of a table, and whether the target is met.

    Args:
        metrics: of each model, by name.
        comparison: the content of comparison.json.
    """
    baseline, selected = comparison["baseline"], comparison["selected"]
    pairs = {pair["model"]: pair for pair in comparison["pairs"] if pair["baseline"] == baseline}
    width = max(len("model"), *map(len, metrics))
    rows = [f"  {'model':{width}}  parameters  accuracy      95% interval  errors  against {baseline}"]
    for name, values in metrics.items():
        interval = f"{100 * values['accuracy_low']:.2f} to {values['accuracy_high']:.2%}"
        pair = pairs.get(name)
        difference = Comparison(**{key: pair[key] for key in Comparison.__annotations__}) if pair else ""
        rows.append(
            f"{'*' if name == selected else ' '} {name:{width}}  {values['parameters']:10,}  "
            f"{values['accuracy']:8.2%}  {interval:>16}  {values['errors']:6,}  {difference}".rstrip()
        )
    verdict = "* the selected model"
    if target := comparison["target_accuracy"]:
        met = "meets" if comparison["target_met"] else "misses"
        verdict += f": its {metrics[selected]['accuracy']:.2%} {met} the target of {target:.2%}"
    return [*rows, verdict]
