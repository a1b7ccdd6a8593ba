"""How far router gradients are from the dense layer's and from their own loss's.

python study_with_figure.py [figure.svg]: draws it where matplotlib is installed.
"""

import sys

import moegrad as mg

study = mg.study.bias(
    routers=["top-k", "moesart", "unordered-set", "priority"],
    experts=4,
    active=2,
    scale=1.5,
    loss="linear",
)
print(f"{'router':14} bias to the dense layer's  to its own loss's  variance")
for row in study.rows:
    own = "-"  # not measured: its noise cannot be enumerated
    if row["own_bias"] is not None:  # below its error: not distinguishable from 0
        own = f"{row['own_bias']:.3f}" if row["own_bias"] > row["own_bias_error"] else "0"
    bias, variance = row["dense_bias"], row["gradient_variance"]
    print(f"{row['router']:14} {bias:25.3f}  {own:>17}  {variance:8.3f}")
for reason in study.left_out:
    print("left out:", reason)

if len(sys.argv) > 1:
    ax = study.plot("gradient_bias")
    ax.set_title("Bias of router gradients, linear loss of one token")
    ax.figure.savefig(sys.argv[1])
