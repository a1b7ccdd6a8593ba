"""The sections that take more than one study, or none."""

import json
from dataclasses import dataclass

from engine import Problem, Section, Study, digits, moegrad, table
from studies import LANGUAGE

DOMAINS = ["prose", "shakespeare", "glosses", "code", "jargon"]


@dataclass
class Language(Section):
    """The default run, whose checkpoints other sections read, and a dense model beside it."""

    config = "examples/configs/language-m.json"
    trained = {
        "top-k": {},
        "dense": {"router": "softmax", "experts": 1, "active": 1, "hidden": 352, "aux": -1},
    }

    def make(self, quick):
        methods = []  # runs of a study: side by side, one core each
        for name, settings in self.trained.items():
            words = [f"{key}={value}" for key, value in settings.items()]
            methods += ["--method", f"{name}: {' '.join(words)}"]
        moegrad(
            *["study", "compare", "--config", self.config, "--seeds", 1, *methods],
            *["--out", self.folder(quick), *(["--quick"] if quick else [])],
        )
        commands = []
        rows = [["run", "parameters", "loss", "byte perplexity"]]
        by_domain = [["run", *DOMAINS]]
        for name, settings in self.trained.items():
            flags = [f"--{key} {value}" for key, value in settings.items()]
            commands.append(f"`{' '.join(['moegrad train --config', self.config, *flags])}`\n")
            run = self.folder(quick) / "runs" / f"{name}-s1"
            r = json.loads((run / "result.json").read_text())
            figures = [digits(r["test_loss"], 4), digits(r["test_byte_perplexity"], 3)]
            rows.append([name, f"{r['parameters']:,}", *figures])
            by_domain.append([name, *(digits(self.loss(run, d), 4) for d in DOMAINS)])
        return "\n".join(
            [self.words(), *commands, table(rows)]
            + ["Nats a byte of each domain's test text:\n", table(by_domain)]
        )

    def loss(self, run, domain):
        printed = moegrad("evaluate", run, "--domains", domain, "--json", text=True)
        return json.loads(printed)["test_loss"]


LANGUAGE_RUN = Language(
    "language",
    "A language model",
    """
    The default run, size M, 14 M bytes: top-k with 8 experts, 2 active, and a dense model with as
    many active parameters (one expert of twice the width), on the same bytes; one seed each.
    Compressors on the same texts (`xz -9e`): prose 1.39 nats a byte, shakespeare 1.73, code 0.90,
    glosses 1.41, jargon 1.64.
    """,
)


@dataclass
class OfARun(Section):
    """A study of the checkpoints of top-k's first run in another section."""

    of: Section
    before: list  # its arguments before the run
    after: list  # and behind it
    can_be_quick: bool = True

    def make(self, quick):
        run = self.of.folder(quick) / "runs" / "top-k-s1"
        if not (run / "result.json").exists():
            raise Problem(f"'{run}' is missing. Make the section {self.of.name} first.")
        arguments = [*self.before, run, *self.after]
        study = Study(self.name, self.title, self.text, arguments)
        study.can_be_quick = self.can_be_quick
        return study.make(quick)


@dataclass
class Vision(Section):
    """Every router, then every other estimator, for one epoch of images."""

    def make(self, quick):
        entries = json.loads(moegrad("list", "--json", text=True))
        by_name = {r["name"]: r for r in entries["routers"]}
        pairs = [(r["name"], "st" if r["categorical"] else "sparse") for r in entries["routers"]]
        others = [
            (e["routers"][0], e["name"]) for e in entries["estimators"] if e["name"] != "sparse"
        ]
        return self.words().format(
            *(
                table([self.header, *(self.row(quick, by_name[r], e) for r, e in chosen)])
                for chosen in (pairs, others)
            )
        )

    header = ["router", "estimator", "k", "auxiliary losses", "accuracy", "loss", "load max/mean"]

    def row(self, quick, router, estimator):
        # The k of a router: 2, or the nearest that it allows.
        k = max(router["least_active"], min(2, router["most_active"] or 2))
        out = self.folder(quick) / f"{router['name']}-{estimator}"
        result = out / "result.json"
        if not result.exists():
            length = ["--steps", 30] if quick else ["--epochs", 1]
            moegrad(
                *["train", "vision", "--router", router["name"], "--estimator", estimator],
                *["--active", k, *length, "--seed", 1, "--force", "--out", out],
            )
        r = json.loads(result.read_text())
        load = max(r["expert_load"]) * len(r["expert_load"]) / sum(r["expert_load"])
        figures = [digits(r["test_accuracy"], 4), digits(r["test_loss"], 4), digits(load, 2)]
        return [router["name"], estimator, str(k), r["auxiliary_losses"], *figures]


VISION = Vision(
    "vision",
    "Every router and estimator, one epoch of images",
    """
    `moegrad train vision --router R --estimator S --active k --epochs 1 --seed 1` (8 experts,
    width 64, hidden 128). One seed: differences of 0.005 are within noise.

    {}
    Every other estimator, with the first router of its checks. An image is a sequence of one
    token: attention and lsh-attention then do what sparse does.

    {}
    """,
)


@dataclass
class Weights(Section):
    """Combine weights beside the softmax's, exactly."""

    kinds = {
        "moesart small-random": ["moesart"],
        "moesart large": ["moesart", "--option", "weighting=large"],
        "moesart zero, with replacement": ["moesart", "--option", "weighting=zero"]
        + ["--option", "replacement=true"],
        "top-k renormalised": ["top-k", "--option", "renormalise=true"],
        "unordered-set": ["unordered-set"],
    }
    published = {  # of (k, scale), in the order of the kinds
        (2, 0.5): ["0.009 / 0.618", "0.175 / 0.369", "0 / 0.420", "1.145 / 0.234", "0 / 0.344"],
        (2, 1.5): ["0.107 / 0.373", "0.214 / 0.203", "0 / 0.295", "0.520 / 0.072", "0 / 0.175"],
        (4, 1.5): ["0.461 / 0.183", "0.196 / 0.044", "0 / 0.158", "0.264 / 0.015", "0 / 0.038"],
    }

    def make(self, quick):
        rows = [["E, k, s", "weights", "ours", "published"]]
        for (k, scale), figures in self.published.items():
            draws = 2 if quick else 200 if k == 2 else 20
            for (kind, router), figure in zip(self.kinds.items(), figures, strict=True):
                row = self.measured(quick, k, scale, draws, router)
                ours = f"{digits(row['weight_bias_l1'], 3)} / {digits(row['weight_mse'], 3)}"
                rows.append([f"8, {k}, {scale}", kind, ours, figure])
        return f"{self.words()}\n{table(rows)}"

    def measured(self, quick, k, scale, draws, router):
        printed = moegrad(
            *["study", "bias", "--scale", scale, "--experts", 8, "--active", k, "--loss", "linear"],
            *["--outcomes", 10000, "--draws", draws, "--no-own", "--json"],
            *["--out", self.folder(quick), "--routers", *router],
            text=True,
        )
        return json.loads(printed)[0]


WEIGHTS = Weights(
    "weights",
    "Combine weights that approximate the softmax",
    """
    Exact, by enumeration, mean over random normal logits of deviation s: ‖E[w] - g‖₁ / E‖w - g‖².
    Ours: 200 logits (20 for k = 4), `moegrad study bias --experts 8 --loss linear ...`.
    Published: the mean over 20 other logits; on those, drawn again by
    `tests/moe/checks/moments_test.cc`, every figure agrees.
    """,
)


@dataclass
class Orders(Section):
    """The losses for which an estimator is exact."""

    def make(self, quick):
        rows = [["router", "estimator", "linear", "quadratic", "cubic"]]
        for estimator in ("st", "reinmax", "reinforce"):
            printed = moegrad(
                *["study", "bias", "--routers", "categorical", "--estimators", estimator],
                *["--experts", 5, "--active", 1, "--scale", 1, "--draws", 4],
                *["--loss", "linear,quadratic,cubic", "--json", "--out", self.folder(quick)],
                text=True,
            )
            found = [row["own_bias"] for row in json.loads(printed)]
            rows.append(
                ["categorical", estimator, *("0" if b < 1e-7 else digits(b, 3) for b in found)]
            )
        return f"{self.words()}\n{table(rows)}"


ORDERS = Orders(
    "orders",
    "The losses for which an estimator is exact",
    """
    ‖E[router gradient] - gradient of the estimator's own expected loss‖ over all outcomes, 5
    experts, k = 1, mean over 4 random logits; 0 is below 1e-7. (The orders of sparsemixer and
    sparsemixer-v2 concern another objective, sum_i p_i f(p_i E_i): `moegrad gradcheck sparsemixer
    sparsemixer-v2` asserts them.)
    """,
)

FIDELITY_OF_LANGUAGE = OfARun(
    "fidelity-language",
    "How the router gradient follows ste-dense in a language model",
    "The first run of the first table, top-k with seed 1: its last checkpoints, 16 windows.",
    of=LANGUAGE[0],
    before=["fidelity", "--checkpoint"],
    after=["--batch", "16"],
    can_be_quick=False,
)
SPECIALISE = OfARun(
    "specialise",
    "What do experts learn?",
    "The default language run.",
    of=LANGUAGE_RUN,
    before=["specialise"],
    after=["--examples", "400"],
)
COUNTERFACTUAL = OfARun(
    "counterfactual",
    "Were better routes of equal cost not chosen?",
    "The default language run; after Yoon et al., arXiv:2605.07260.",
    of=LANGUAGE_RUN,
    before=["counterfactual"],
    after=["--examples", "100"],
)
