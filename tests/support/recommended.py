"""Made-up records to choose from under a budget."""

from made_up import chain

from slimsweep.reports.budget import limits
from slimsweep.reports.recommend import recommend

FIELD = "perplexity_wikitext2"


def model(name: str, perplexity: float | None, mebibytes: float, **values):
    made = chain(name, weights="trained", **values)
    return made | {FIELD: perplexity, "weight_bytes": int(mebibytes * 2**20)}


def four():
    """Dense of 16 MiB and three others, of which `squeezellm` is beaten by gptq in both."""
    return [
        model("dense", 10.0, 16),
        model("gptq", 11.0, 4),
        model("squeezellm", 13.0, 5),
        model("rtn", 14.0, 3),
    ]


def choose(store, records, **budget):
    return recommend(store, records, limits({f"--{name.replace('_', '-')}": given for name, given in budget.items()}))
