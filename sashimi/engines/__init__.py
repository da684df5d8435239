"""The model as a player: blocks of steps, prompts, exact log-probabilities.

base   the contract
eager  plain torch: the oracle of every other engine
"""

from sashimi.checkpoint import LoadedModel
from sashimi.config import EngineConfig
from sashimi.engines.base import Engine
from sashimi.engines.eager import EagerEngine


def make_engine(config: EngineConfig, model: LoadedModel) -> Engine:
    """The configured engine for a model."""
    match config.name:
        case "eager":
            return EagerEngine(model)
    raise ValueError(config.name)
