"""Fuzz the wire contract against an agent of its own: `python scripts/fuzz.py --seed 1`."""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from scripts.fuzz_parts import campaign, findings, report


def main() -> int:
    """Run a campaign, or replay a case; say what was found."""
    given = _arguments()
    if given.replay is not None:
        return asyncio.run(_replay(given.replay))
    outcome = asyncio.run(_run(given.seed, given.messages, given.minutes))
    print(report.text(outcome, given.seed))
    if not outcome.good:
        outcome.found.save(given.out)
        print(f"the messages of each finding are in {given.out}/")
    return 0 if outcome.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop sending after so long")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("fuzz-findings"))
    parser.add_argument("--replay", type=pathlib.Path, help="send the messages of a case again")
    return parser.parse_args()


async def _run(seed: int, messages: int, minutes: float) -> campaign.Outcome:
    async with campaign.under_fire(seed) as one:
        return await one.run(messages, minutes)


async def _replay(file: pathlib.Path) -> int:
    async with campaign.under_fire(0) as one:
        await one.replay(findings.load(file))
        await one.settle()
        print(report.found(one.found))
        return 0 if not one.found.counts else 1


if __name__ == "__main__":
    sys.exit(main())
