"""``bnsweep claims [NAME]``."""

from __future__ import annotations

import argparse
import json
import textwrap

EXAMPLE = "bnsweep claims lr_robustness"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", help="one claim, with its definition; all by default")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Print the catalogue of claims, or one of them in full."""
    from bnsweep.analysis.claims.catalogue import CATALOGUE, find

    chosen = [find(arguments.name)] if arguments.name else list(CATALOGUE.values())
    if arguments.json:
        print(json.dumps([claim.to_dict() for claim in chosen], indent=1, ensure_ascii=False))
        return 0
    for claim in chosen:
        print(f"{claim.name}: {claim.sentence}\n    {claim.where}; needs {claim.needs()}")
        if arguments.name:
            least = ", ".join(f"{value:.3g} ({kind})" for kind, value in claim.min_effect.items())
            lines = [
                f"Measured: {claim.estimand}.",
                f"Smallest effect that matters (min_effect): {least}; {claim.effect}.",
                *(f"The paper, {kind}: {text}." for kind, text in claim.paper.items()),
            ]
            for line in lines:
                print(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="    "))
    return 0
