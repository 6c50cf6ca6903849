"""A stage on a model with weights or without, for tests that compare the two."""

from contexts import text_context

from slimsweep.models.skeleton import Skeleton


def apply_or_plan(technique, model, token_ids=None, seed=0):
    """Apply a technique to a model; plan it where there are only shapes."""
    if isinstance(model, Skeleton):
        return technique.plan(model)
    return technique.apply(model, text_context(token_ids, seed))
