"""Copy the selected model's metrics, compare the models, and compare their errors with disputed labels."""

import json

from mnistflow.core import cli, files, params
from mnistflow.core.params import RESERVED
from mnistflow.data import catalog
from mnistflow.evaluation import comparisons, leftovers, predictions
from mnistflow.evaluation.audit import audit


def main() -> None:
    settings = params.load()
    chosen, names = settings.evaluate, settings.model_names()
    leftovers.clean(names, RESERVED)
    evaluations = predictions.read_all(names)
    values = evaluations[chosen.model].metrics
    comparison = {
        "target_accuracy": chosen.target_accuracy,
        "target_met": values["accuracy"] >= chosen.target_accuracy,
        "selected": chosen.model,
        "baseline": chosen.baseline,
        "pairs": comparisons.pairs(evaluations, chosen.baseline, chosen.model),
    }
    audited = audit(evaluations, catalog.load(settings.fetch.dataset).disputes())
    outputs = {"selected": values, "comparison": comparison, "audit": audited}
    for name, content in outputs.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (files.METRICS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print("\n".join(comparisons.table({name: evaluations[name].metrics for name in names}, comparison)))
    print(audited["verdict"])


if __name__ == "__main__":
    cli.run(main)
