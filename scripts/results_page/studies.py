"""The sections that are one study each, in the order of the page."""

from engine import Study

XS = ["--config", "examples/configs/language-xs.json"]

TOP_K, ALL = "top-k:", "all: router=softmax aux=-1"
STE_DENSE = "ste-dense: estimator=ste-dense"
STE_DENSE_ROUTER = "ste-dense-router: estimator=ste-dense-router"
EXPERT_GROUP = "expert-group: estimator=expert-group"


def methods(*texts):
    return [word for text in texts for word in ("--method", text)]


def steps(n):
    """Of a language model of size XS: so many steps, then the one evaluation that tables need."""
    return [*XS, "--set", f"steps={n}", "--set", f"evaluate_every={n}"]


def routers(*names):
    """Top-k and all experts first, then these, each with the auxiliary losses of its paper."""
    return methods(TOP_K, ALL, *(f"{name}: router={name} aux=-1" for name in names))


LANGUAGE = [
    Study(
        "compare",
        "Dense gradients from sparse experts, from scratch",
        """
        A language model of size XS, 1,000 steps (2 M bytes), four seeds, every method from its
        own beginning; `@ops` at the operations of top-k. Published for 9 B tokens, 8 experts:
        perplexity of top-2 22.06, top-3 21.38, all experts 21.08, expert-group with k = 2 21.38
        (69 % of the gap) at 97.7 % of the speed. ste-dense was announced there and not shown.
        """,
        ["compare", *steps(1000), "--set", "checkpoint_every=200"]  # fidelity-language reads two
        + ["--seeds", "4", "--equal-operations"],
    ),
    Study(
        "branch",
        "The same, from a common trunk",
        """
        The methods of each seed go on for 500 steps from one model that top-k has trained for
        500, at a constant rate that then falls: differences vary far less between seeds.
        """,
        ["compare", *steps(500), "--trunk", "500", "--seeds", "4"]
        + methods(
            *[TOP_K, ALL, STE_DENSE, STE_DENSE_ROUTER, "ste-dense-norms: norms_of=ste-dense"],
            *[EXPERT_GROUP, "expert-group-router: router_gradient=expert-group"],
            "default-ema: estimator=default-ema options.forward=false",
        ),
    ),
    Study(
        "learning-rate",
        "Is it only a larger gradient?",
        """
        Four rates, 500 steps, two seeds. The controls `-norms` have the sparse gradient with the
        norms that another estimator's has. Each method's best rate is chosen on the seeds that
        are compared: a difference at the best rates is a little too good.
        """,
        ["learning-rate", *steps(500), "--seeds", "2", "--rates", "0.001,0.002,0.004,0.008"]
        + methods(TOP_K, STE_DENSE, "ste-dense-norms: norms_of=ste-dense")
        + methods(EXPERT_GROUP, "expert-group-norms: norms_of=expert-group"),
    ),
    Study(
        "shapes",
        "Does it depend on the number of experts, or on the size?",
        "500 steps, two seeds. Sizes of language models: XS, with other experts, and S.",
        ["sweep", *steps(500), "--seeds", "2"]
        + ["--point", "E8k2:", "--point", "E8k1: active=1", "--point", "E16k2: experts=16"]
        + ["--point", "E32k4: experts=32 active=4", "--point", "S: width=96 hidden=128"]
        + methods(TOP_K, STE_DENSE_ROUTER, EXPERT_GROUP),
        reuses=("learning-rate",),
    ),
    Study(
        "balance",
        "Is balance the cause?",
        "500 steps, two seeds.",
        ["balance", *steps(500), "--seeds", "2"]
        + methods("sparse:", STE_DENSE_ROUTER, EXPERT_GROUP),
        reuses=("shapes",),
    ),
    Study(
        "closeness",
        "Does a closer gradient train better?",
        """
        500 steps, two seeds. Published: the variants of expert-group that approximate the dense
        gradient better trained worse.
        """,
        ["closeness", *steps(500), "--seeds", "2"],
        reuses=("learning-rate", "shapes"),
    ),
    Study(
        "finetune",
        "Does it help when a trained model moves to other data?",
        "400 steps on prose, then 400 on code, two seeds.",
        ["finetune", *steps(400), "--set", "domains=code", "--source", "domains=prose"]
        + ["--seeds", "2"],
    ),
    Study(
        "inference",
        "What changes at inference?",
        "400 steps, one seed.",
        ["inference", *steps(400), "--seeds", "1"],
    ),
]

TASKS = [
    Study(
        "movielens",
        "A recommender",
        """
        MovieLens-100K, ratings and views, four seeds. Published for moesart, on other sets: up to
        15 % better AUC than other sparse routers.
        """,
        ["compare", "--config", "examples/configs/movielens.json", "--seeds", "4"]
        + routers(
            *["noisy-top-k", "v-moe", "x-moe", "expert-choice", "dselect-k", "comet", "soft-moe"],
            *["smear", "moesart", "unordered-set"],
        ),
        measures=("rating_rmse", "watched_auc"),
    ),
    Study(
        "reviews",
        "Texts, three targets",
        "Reviews of clothing as bags of words, four seeds.",
        ["compare", "--config", "examples/configs/reviews.json", "--seeds", "4"]
        + routers("noisy-top-k", "x-moe", "dselect-k", "comet", "moesart", "unordered-set"),
        measures=("rating_rmse", "recommended_auc", "department_accuracy"),
    ),
    Study(
        "pairs",
        "Two images at once",
        """
        Multi-Fashion-MNIST, three seeds. Published for moesart: up to 16 % lower loss than other
        sparse routers on images.
        """,
        ["compare", "--config", "examples/configs/fashion-pairs.json", "--seeds", "3"]
        + routers("v-moe", "x-moe", "dselect-k", "comet", "moesart", "unordered-set"),
        measures=("upper_accuracy", "lower_accuracy"),
    ),
    Study(
        "distil",
        "A student of an encoder of sentences",
        "Three seeds. Published for moesart: 0.5 % better than top-k over tasks of language.",
        ["distil", "--config", "examples/configs/distil.json", "--seeds", "3"]
        + ["--set", "evaluate_every=1000"],  # at the end alone
    ),
]

FIDELITY = Study(
    "fidelity",
    "How the router gradient follows ste-dense in a model of images",
    """
    Top-k with the estimator sparse and no auxiliary loss, one epoch of images, 512 tokens; the
    gradient of the router's matrix for the model's own dL/dy, and for ones. Output error: ‖V - E‖
    / ‖E‖ of what stands for the outputs of the experts that a token did not select (1: nothing
    does).
    """,
    ["fidelity", "--along-training", "--points", "3"],
    can_be_quick=False,
)
