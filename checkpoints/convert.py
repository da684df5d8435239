"""Published SaShiMi checkpoints to ours: python -m checkpoints.convert IN OUT.safetensors"""

import argparse
import logging
from pathlib import Path

from sashimi.cli import reported_errors


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m checkpoints.convert", description=__doc__)
    parser.add_argument("input", type=Path, metavar="IN", help="a state dict (.pt) or Lightning checkpoint (.ckpt)")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors")
    parser.add_argument(
        "--dt-transform", choices=("softplus", "exp"), help="how step sizes are stored, where IN does not say"
    )
    arguments = parser.parse_args()
    if arguments.output.suffix != ".safetensors":
        parser.error(f"{arguments.output}: the output must end in .safetensors")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    with reported_errors():
        from sashimi import checkpoint
        from sashimi.clips import describe

        model = checkpoint.load(arguments.input, dt_transform=arguments.dt_transform)
        checkpoint.save(arguments.output, model, model.metadata)
        print(f"{arguments.output}  {describe(model)}")


if __name__ == "__main__":
    main()
