"""Owns how a campaign is told."""

from __future__ import annotations

from scripts.fuzz_parts import campaign, findings


def text(outcome: campaign.Outcome, seed: int) -> str:
    """Tell what was sent, what came back and what was found."""
    rate = outcome.sent / outcome.seconds * 60
    lines = [
        f"{outcome.sent:,} messages of seed {seed} in {outcome.seconds:.0f} s",
        f"{rate:,.0f} messages a minute",
        f"{outcome.held_bytes / 2**20:.0f} MiB are held by the agent at the end",
        f"{outcome.grown_bytes / 2**20:+.0f} MiB is that since it was warm",
        "",
        *_outcomes(outcome),
        *_times(outcome),
        found(outcome.found),
    ]
    return "\n".join(lines)


def _outcomes(outcome: campaign.Outcome) -> list[str]:
    lines = []
    for target, counts in sorted(outcome.outcomes.items()):
        lines.append(f"{target}: {sum(counts.values()):,}")
        ranked = sorted(counts.items(), key=lambda pair: -pair[1])
        lines += [f"    {count:>7,}  {name}" for name, count in ranked]
    return [*lines, ""]


def _times(outcome: campaign.Outcome) -> list[str]:
    lines = ["seconds to the answer, half of them / 99 of 100 / the slowest:"]
    for target, times in sorted(outcome.times.items()):
        ranked = sorted(times)
        half, most = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)]
        lines.append(f"    {half:7.3f} {most:7.3f} {ranked[-1]:7.3f}  {target}")
    return [*lines, ""]


def found(everything: findings.Findings) -> str:
    """Tell the findings, each kind with its number and an example."""
    if not everything.counts:
        return "nothing was found"
    lines = [f"findings of {len(everything.counts)} kinds:"]
    examples = {case.about: case for case in reversed(everything.cases)}
    for about, count in everything.counts.most_common():
        case = examples[about]
        first = case.messages[0] if case.messages else None
        lines.append(f"    {count:>6,}  {about}")
        if first is not None:
            lines.append(f"            from message {first.number} on ({len(case.messages)})")
        if case.detail:
            lines.append("            " + case.detail[-600:].replace("\n", "\n            "))
    return "\n".join(lines)
