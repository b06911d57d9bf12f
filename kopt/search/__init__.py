"""From a model and data to the best file to ship: catalog, trials, ranking, and the loop over them."""

from kopt.search import demo
from kopt.search.loop import optimize
from kopt.search.result import SearchResult
from kopt.search.techniques.catalog import CATALOG, WAYS_TO_SHIP
from kopt.search.training import Training
from kopt.search.tuning.call import tune
from kopt.search.tuning.pareto_oracle import ParetoOracle

__all__ = ["CATALOG", "WAYS_TO_SHIP", "ParetoOracle", "SearchResult", "Training", "demo", "optimize", "tune"]
