"""Break agents, workers, specialists, Ray and the broker under load: `python scripts/chaos.py`."""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import msgspec

from scripts.chaos_parts import campaign, faults


def main() -> int:
    """Carry out a campaign, print its report, and say with the exit status how it ended."""
    given = _arguments()
    plan = campaign.Plan(
        seed=given.seed,
        agents=given.agents,
        faults=given.faults,
        runs=given.runs,
        every_s=given.every,
        leave_out=frozenset(given.without),
    )
    folder = given.folder or pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"logs, journals and artifacts are kept in {folder}")
    found = asyncio.run(campaign.carry_out(plan, folder))
    print(found.text())
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    return 0 if found.good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two faults")
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(faults.FAULTS))
    parser.add_argument("--folder", type=pathlib.Path, help="where everything is kept")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the report")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
