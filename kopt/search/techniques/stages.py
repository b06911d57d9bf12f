"""The order of the work, as data: the stages of a recipe, from the model, as given or built anew, to the file."""

BUILD, RESTRUCTURE, FOLD, PRUNE, RECOVER, CLUSTER, QUANTIZE, SHIP = STAGES = (
    "build",
    "restructure",
    "fold",
    "prune",
    "recover",
    "cluster",
    "quantize",
    "ship",
)


def after(stage: str) -> tuple[str, ...]:
    """Return the stages behind one."""
    return STAGES[STAGES.index(stage) + 1 :]
