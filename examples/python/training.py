"""Training a mixture: stopped in the middle, gone on with, and extended."""

import tempfile

import moegrad as mg

with tempfile.TemporaryDirectory() as folder:
    run = mg.train(
        "synthetic",
        router="top-k",
        experts=8,
        active=2,
        epochs=3,
        out=f"{folder}/run",
        progress=lambda view: view.step < 100,  # False stops it, as Ctrl-C does
    )
    print("stopped:", run.checkpoint.name, "result:", run.result)

    # The same parameters, bit for bit, as of a run that was never stopped.
    run.resume(progress=False)
    whole = mg.train("synthetic", epochs=3, out=f"{folder}/whole", progress=False)
    print("same bits:", run.checkpoint.read_bytes() == whole.checkpoint.read_bytes())

    run.resume(epochs=6, progress=False)
    for line in run.metrics:
        if line["kind"] == "evaluation":
            print(f"epoch {line['epoch']}: test accuracy {line['test_accuracy']:.3f}")
    busiest = max(range(8), key=run.result["expert_load"].__getitem__)
    print(f"expert {busiest} gets {run.result['expert_load'][busiest]:.0%} of the choices")
