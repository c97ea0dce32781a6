"""scikit-learn's scores of random predictions, empty classes included: metrics.json.

100 single-label and 100 multi-label cases. Logits are small integers over 4, exact in JSON and in float32, with many
ties. Undefined ratios count as 0. Some cases draw labels, predictions or both from a part of the classes only; some
multi-label cases have no positive at all, or samples without labels.
"""

import json
import warnings

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from common import HERE, rng

CASES = 100


def single(case):
    r = rng("metrics", "single", case)
    n, classes = int(r.integers(1, 30)), int(r.integers(2, 9))
    logits = r.integers(-12, 13, (n, classes))
    # Labels from the first classes only, predictions pushed away from the last, now and then.
    labels = r.integers(0, int(r.integers(1, classes + 1)), n)
    if case % 3 == 0:
        logits[:, -1] = -99
    predicted = logits.argmax(1)
    names = list(range(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0
    )
    return {
        "logits": logits.tolist(),
        "labels": labels.tolist(),
        "values": {
            "accuracy": accuracy_score(labels, predicted),
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
            "f1_macro": f1_score(labels, predicted, average="macro", zero_division=0),
            "f1_micro": f1_score(labels, predicted, average="micro", zero_division=0),
            "f1_weighted": f1_score(labels, predicted, average="weighted", zero_division=0),
        },
        "classes": [precision.tolist(), recall.tolist(), f1.tolist(), support.tolist()],
        "confusion": confusion_matrix(labels, predicted, labels=names).tolist(),
    }


def multi(case):
    r = rng("metrics", "multi", case)
    n, classes = int(r.integers(1, 30)), int(r.integers(2, 9))
    logits = r.integers(-12, 13, (n, classes))
    labels = (r.random((n, classes)) < r.random()).astype(int)
    if case % 3 == 0:
        labels[:, -1] = 0
        logits[:, 0] = -3
    if case % 10 == 0:
        labels[:] = 0
    predicted = (logits >= 0).astype(int)
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0)
    # A class without positives counts as 0 in scikit-learn too, with a warning.
    ap = [average_precision_score(labels[:, c], logits[:, c]) if labels[:, c].any() else 0.0 for c in range(classes)]
    return {
        "logits": logits.tolist(),
        "labels": [np.flatnonzero(row).tolist() for row in labels],
        "values": {
            "accuracy": accuracy_score(labels, predicted),
            "f1_macro": f1_score(labels, predicted, average="macro", zero_division=0),
            "f1_micro": f1_score(labels, predicted, average="micro", zero_division=0),
            "f1_weighted": f1_score(labels, predicted, average="weighted", zero_division=0),
            "f1_samples": f1_score(labels, predicted, average="samples", zero_division=0),
            "average_precision_macro": float(np.mean(ap)),
        },
        "classes": [precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), ap],
    }


def rounded(value):
    """Ten digits: far below the tolerance, and the same on every machine."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(float(value), 10) if isinstance(value, (float, np.floating)) else int(value)


def main():
    warnings.simplefilter("ignore", UndefinedMetricWarning)
    warnings.simplefilter("ignore", UserWarning)
    out = {"single": [single(c) for c in range(CASES)], "multi": [multi(c) for c in range(CASES)]}
    lines = (f'"{kind}": [\n' + ",\n".join(json.dumps(rounded(c), separators=(",", ":")) for c in cases) + "\n]" for kind, cases in out.items())
    (HERE / "metrics.json").write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
