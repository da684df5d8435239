"""The model as a player: blocks of steps, prompts, exact log-probabilities.

base      the contract
eager     plain torch: the oracle of every other engine
native    native.cpp, built on first use
prefill   hearing a prompt, for all of them
"""

import logging

from sashimi.checkpoint import LoadedModel
from sashimi.compiler import BuildError
from sashimi.config import EngineConfig
from sashimi.engines.base import Engine
from sashimi.engines.eager import EagerEngine
from sashimi.engines.native import NativeEngine

log = logging.getLogger(__name__)


def make_engine(config: EngineConfig, model: LoadedModel) -> Engine:
    """The configured engine for a model; the eager one, with a warning, where the native one cannot be built."""
    match config.name:
        case "native":
            try:
                return NativeEngine(model, half=config.precision != "fp32", threads=config.threads)
            except BuildError as error:
                log.warning("%s. Playing with the eager engine, which is about a hundred times slower", error)
                return EagerEngine(model)
        case "eager":
            return EagerEngine(model)
    raise ValueError(config.name)
