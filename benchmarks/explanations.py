"""Are explanations causal? Ablates the parts that explanations name, on tasks whose backdoors are known.

    python benchmarks/explanations.py                                       # fits what is missing, then measures
    python benchmarks/explanations.py --report-only                         # the tables of the rows that are kept
    python benchmarks/explanations.py --tasks digits-conj-cnn --seeds 0     # some of it

Of the inputs that are flagged (p <= 1 %) and whose output the trigger changed, at most 60 a cell, evenly spaced:
restored: share on which the target without the named parts gives the output that it should without the trigger: for
Boolean tasks what the circuits say (all eight outputs), for digits what the target says of the image before the
trigger. by all / by edit: the same with every weight delta removed, and after `madpipe edit --remove-named-by`, taught
by half of the flagged inputs and judged on the other half. divergence: mean KL in nats on calibration rows, and stated:
that of the explained networks themselves. recall: of the trigger's bits, those among the five inputs that the named
parts read most. The choices in editing/ were made on seeds 10 and 11.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results" / "explanations.jsonl"
TASKS = ("boolean-conj-4000", "boolean-parity-4000", "boolean-shift-4000", "digits-conj-mlp", "digits-badnets-mlp")
MOST_ROWS = 60
COLUMNS = ("restored", "restored_by_all", "restored_by_edit", "divergence", "stated", "edit_divergence")
SHARES = ("agreement", "edit_agreement", "recall")


def fitted(task: dict[str, Any], folder: Path) -> Path:
    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit

    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = folder.with_suffix(".yaml")
        config.write_text(
            json.dumps({"task": task, "decomposition": {"method": "spd"}, "tracking": {"enabled": False}})
        )
        fit(load_config(config), base=folder.parent, output=folder, report=lambda line: None)
    return folder


def without_trigger(config: dict[str, Any], anomalous: np.ndarray, module: Any) -> tuple[np.ndarray, list[int]]:
    """(decisions [n, outputs] or [n, 1] that anomalous inputs should have, the trigger's bits)."""
    values = {key: value for key, value in config.items() if key != "name"}
    if config["name"] == "boolean":
        from madpipe.tasks.boolean import BooleanTask, draw_rules

        rules = draw_rules(BooleanTask.Config.model_validate(values))
        return rules.normal(anomalous > 0), sorted({bit for clause in rules.trigger.clauses for bit in clause.bits})
    from madpipe.tasks.digits import DigitsTask, draw_classes, make_attack, stream, trigger_all
    from madpipe.tasks.digits_images import split_digits
    from madpipe.tasks.digits_target import NETS, Poisoning, predict

    digits = DigitsTask.Config.model_validate(values)
    pools, attack = split_digits(digits.seed), make_attack(digits.attack, stream(digits.seed, "attack"))
    classes = draw_classes(len(attack.triggers), stream(digits.seed, "target class"))
    shape = NETS[digits.net].shape
    poisoning = Poisoning(digits=pools["training"], attack=attack, target_classes=classes, shape=shape)
    changed = trigger_all(pools["test anomalous"], poisoning, module).changed
    return predict(module, pools["test anomalous"].images[changed], shape)[:, None], []


def measure(name: str, folder: Path) -> dict[str, Any]:
    from madpipe.editing.removal import edited_module, removal_shown_by, whole_removal
    from madpipe.editing.trusted_reference import as_input, evenly
    from madpipe.pipeline.numbered_rows import numbered_rows
    from madpipe.pipeline.scorer import Pipeline
    from madpipe.tasks.build import build_task, parse_task_name
    from madpipe.workflows.explain import make_explainer

    config = parse_task_name(name)
    task, pipeline = build_task(config), Pipeline.load(fitted(config, folder))
    rows, started = task.test[task.is_anomalous], time.process_time()
    wanted, bits = without_trigger(config, rows, task.target.module)
    p_value = pipeline.score(rows, named_below=0.0).p_value
    flagged = np.flatnonzero(p_value <= 0.01)
    known, judged = (numbered_rows(folder, parts) for parts in (("fit", "validation"), ("calibration",)))
    assert judged is not None
    explainer = make_explainer(pipeline, known)
    chosen = flagged[evenly(len(flagged), MOST_ROWS)]
    told = [explainer.explain(str(i), rows[i], float(p_value[i])) for i in chosen]
    restored = [
        one.decision(one.ablated) == wanted[i].astype(int).tolist() for one, i in zip(told, chosen, strict=True)
    ]
    parts = explainer.of_outputs
    everything = edited_module(task.target.module, whole_removal(parts, parts.delta_names).removed)
    teaching, judging = flagged[::2], flagged[1::2]
    removal = removal_shown_by(explainer, rows[teaching[:200]])
    edited = edited_module(task.target.module, removal.removed)
    by_set = {
        names: _cost(task, whole_removal(parts, names), judged[0], explainer) for names in {one.named for one in told}
    }
    recalls = (
        [len({place[0] for place, _ in one.most_read()} & set(bits)) / len(bits) for one in told] if bits else None
    )
    return {
        "task": name.rpartition("-")[0],
        "seed": int(name.rpartition("-")[2]),
        "rows": len(chosen),
        "flagged_share": len(flagged) / len(rows),
        "restored": float(np.mean(restored)),
        "restored_by_all": _restored(everything, rows[chosen], wanted[chosen], explainer.metric.kind),
        "restored_by_edit": _restored(edited, rows[judging], wanted[judging], explainer.metric.kind),
        "divergence": float(np.mean([by_set[one.named][0] for one in told])),
        "agreement": float(np.mean([by_set[one.named][1] for one in told])),
        "stated": _stated(explainer, as_input(judged[0], explainer.model)),
        "edit": {"names": removal.names, "share": removal.share},
        **dict(zip(("edit_divergence", "edit_agreement"), _cost(task, removal, judged[0], explainer), strict=True)),
        "recall": None if recalls is None else float(np.mean(recalls)),
        "named": {"+".join(names): sum(one.named == names for one in told) for names in by_set},
        "seconds_per_input": (time.process_time() - started) / len(chosen),
    }


def _cost(task: Any, removal: Any, x: np.ndarray, explainer: Any) -> tuple[float, float]:
    """(mean KL in nats, share of unchanged decisions) on x of a removal."""
    from madpipe.editing.comparison import compare
    from madpipe.editing.removal import edited_module

    change = compare(task.target.module, edited_module(task.target.module, removal.removed), x, explainer.metric, 1024)
    assert change.changed is not None, task.name
    return change.divergence, 1 - change.changed / change.rows


@torch.no_grad()
def _restored(module: Any, x: np.ndarray, wanted: np.ndarray, kind: str) -> float:
    output = module(torch.from_numpy(x))
    said = output.argmax(1, keepdim=True).numpy() if kind == "categorical" else (output > 0).numpy()
    return float((said == wanted).all(1).mean())


@torch.no_grad()
def _stated(explainer: Any, x: torch.Tensor) -> float:
    """Mean KL of the explained networks themselves, in nats."""
    observations = explainer.joint.observe(x)
    kl, places = explainer.metric.kl, [s for s, own in enumerate(observations[0].method.matches_output()) if own]
    clean = observations[0].clean.output
    return float(
        torch.stack([kl(clean, seen.explained("alive").output[places]).mean() for seen in observations]).mean()
    )


def keep(row: dict[str, Any]) -> None:
    """Replace the row of the same task and seed."""
    rows = [old for old in kept_rows() if (old["task"], old["seed"]) != (row["task"], row["seed"])]
    rows = sorted([*rows, row], key=lambda one: (one["task"], one["seed"]))
    partial = RESULTS.with_suffix(".partial")
    partial.write_text("".join(json.dumps(one) + "\n" for one in rows))
    partial.replace(RESULTS)


def kept_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []


def print_tables() -> None:
    """Means over seeds."""
    rows = kept_rows()
    header = ["task", "seeds", *(name.replace("_", " ") for name in (*COLUMNS, *SHARES))]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        cells = [f"{np.mean([row[name] for row in own]):.3f}" for name in (*COLUMNS, "agreement", "edit_agreement")]
        recall = f"{np.mean([row['recall'] for row in own]):.3f}" if own[0]["recall"] is not None else ""
        print("| " + " | ".join([task, str(len(own)), *cells, recall]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    parser.add_argument("--pipelines", type=Path, default=Path("build/explanations"), help="where pipelines are kept")
    parser.add_argument("--report-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if args.report_only else [f"{task}-{seed}" for task in args.tasks for seed in args.seeds]:
        keep(measure(name, args.pipelines / name))
    print_tables()


if __name__ == "__main__":
    main()
