"""An operation in NumPy: checked, and broken on purpose to see that the check can fail."""

import moegrad as mg
import numpy as np


@mg.operation(claim="exact", needs="output", cases=[(4, 3), (), (0, 3)])
class soft_cap:
    """cap tanh(x / cap): bounds logits smoothly."""

    def forward(x, cap=1.5):
        return cap * np.tanh(x / cap)

    def backward(dy, y, cap):
        return dy * (1 - (y / cap) ** 2)


@mg.operation(claim="surrogate", needs="inputs", cases=[(4, 3), (), (0, 3)])
class sign:
    """The sign; backwards the derivative of clamp(x, -1, 1), as binary networks have it."""

    def forward(x):
        return np.sign(x)

    def surrogate(x):
        return np.clip(x, -1, 1)

    def backward(dy, x):
        return dy * (np.abs(x) <= 1)


for operation in (soft_cap, sign):
    print(operation.check())
    caught = [m for m in mg.mutations() if operation.check(mutation=m).verdict == "fail"]
    print(f"  caught {len(caught)} of {len(mg.mutations())} mutations: {', '.join(caught)}")

logits = np.array([0.5, 4.0, -40.0])
capped, vjp = soft_cap.vjp(logits, cap=5.0)
print("capped at 5:", capped.round(3), "gradient:", vjp(np.ones(3))[0].round(3))
