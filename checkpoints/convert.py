"""Published SaShiMi checkpoints to ours, and into any how it is best played:

python -m checkpoints.convert IN OUT.safetensors
"""

import argparse
import logging
from pathlib import Path

from sashimi.cli import reported_errors


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.convert", description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="state dict (.pt), Lightning checkpoint (.ckpt) or ours")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors")
    parser.add_argument(
        "--dt-transform", choices=("softplus", "exp"), help="how step sizes are stored, where IN does not say"
    )
    parser.add_argument(
        "--sampling", nargs="+", default=[], metavar="SETTING=VALUE",
        help="how it is to be played where nobody says otherwise, as in: temp=1.1 entropy=1.5",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        parser.error(f"{arguments.output}: the output must end in .safetensors")
    for setting in arguments.sampling:
        if "=" not in setting:
            parser.error(f"--sampling {setting}: give a value, as in {setting}=1")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with reported_errors():
        from omegaconf import OmegaConf

        from sashimi import checkpoint
        from sashimi.clips import describe
        from sashimi.config import SamplingChoice
        from sashimi.settings import build

        asked = build(
            SamplingChoice, {str(key): value for key, value in OmegaConf.from_dotlist(arguments.sampling).items()}
        )
        model = checkpoint.load(arguments.input, dt_transform=arguments.dt_transform)
        model.metadata.sampling = asked.sampling(model.metadata.sampling)
        checkpoint.save(arguments.output, model, model.metadata)
        print(f"{arguments.output}  {describe(model)}")


if __name__ == "__main__":
    main()
