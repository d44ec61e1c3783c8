"""Owns which candidates are tried: an Optuna study on disk, asked in batches.

The n-th candidate depends on the request, its seed and the batches before its own, and on nothing
else: not on how fast workers are, nor on how often the specialist was killed in between.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import msgspec

from agent.specialist import faults
from protocol import training
from stages.frameworks import base

DEFAULT_BATCH = 4
"""Candidates asked together where the request does not say; not the number of CPUs, since the
outcome would then depend on the machine."""
_VERDICT = "verdict"
_STUDY = "search"


class Candidate(msgspec.Struct, frozen=True):
    """One set of parameters to try."""

    number: int
    params: dict[str, Any]


def check(search: training.Search) -> None:
    """Refuse a space that the strategy cannot search."""
    if (search.strategy == "none") != (not search.space):
        msg = f"the strategy is {search.strategy!r}, but the space has {len(search.space)} entries"
        raise faults.BadRequest(msg, path="$.search.strategy")
    for name, candidates in search.space.items():
        path = f"$.search.space.{name}"
        if isinstance(candidates, training.Range):
            _check_range(search, candidates, path)
        elif not candidates:
            raise faults.BadRequest("there are no candidates", path=path)


def _check_range(search: training.Search, bounds: training.Range, path: str) -> None:
    if search.strategy == "grid":
        raise faults.BadRequest("a grid needs a list of candidates, not a range", path=path)
    if bounds.low > bounds.high or (bounds.log and bounds.low <= 0):
        raise faults.BadRequest("the range is empty, or not positive on a log scale", path=path)


class Search:
    """The candidates of one training; blocking, so it is called from a thread."""

    def __init__(self, path: pathlib.Path, request: training.TrainingRequest) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = request.search
        self._seed = request.seed
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        self._study = optuna.create_study(
            storage=self._storage, study_name=_STUDY, direction="maximize", load_if_exists=True
        )
        self._distributions = _distributions(request.search)
        self._grid = _grid(request.search)
        self.batch = 1 if request.search.strategy == "none" else _batch(request.search)
        self.total = _total(request.search, len(self._grid))

    def next_batch(self) -> list[Candidate]:
        """Ask for the next candidates, or for those of a batch that was interrupted."""
        import optuna

        known = self._study.get_trials(deepcopy=False)
        asked = [t for t in known if t.state != optuna.trial.TrialState.WAITING]
        first = next((t.number for t in asked if not t.state.is_finished()), len(asked))
        start = first - first % self.batch
        end = min(start + self.batch, self.total)
        for number in range(len(asked), end):
            self._ask(number)
        batch = self._study.get_trials(deepcopy=False)[start:end]
        return [self._candidate(t) for t in batch if not t.state.is_finished()]

    def _ask(self, number: int) -> None:
        self._study.sampler = self._sampler(number)
        if self._grid and not self._waiting():
            self._study.enqueue_trial(self._grid[number])
        self._study.ask(self._distributions)

    def _waiting(self) -> bool:
        import optuna

        states = (optuna.trial.TrialState.WAITING,)
        return bool(self._study.get_trials(deepcopy=False, states=states))

    def _sampler(self, number: int) -> Any:
        """Seed a sampler for this candidate alone, so that a restart proposes the same."""
        import optuna

        seed = (self._seed * 1_000_003 + number) % 2**32
        if self._search.strategy != "bayesian":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = min(10, max(self.batch, self.total // 3))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)

    def _candidate(self, trial: Any) -> Candidate:
        params = {name: self._decode(name, value) for name, value in trial.params.items()}
        return Candidate(trial.number, params)

    def _decode(self, name: str, value: Any) -> Any:
        if isinstance(self._search.space[name], training.Range):
            return value
        return msgspec.json.decode(value)

    def tell(self, candidate: Candidate, verdict: base.Verdict) -> None:
        """Keep what became of a candidate."""
        import optuna

        states = optuna.trial.TrialState
        trial = self._study.get_trials(deepcopy=False)[candidate.number]
        encoded = msgspec.to_builtins(verdict)
        self._storage.set_trial_user_attr(trial._trial_id, _VERDICT, encoded)  # noqa: SLF001 - public ids are numbers, the storage takes its own
        if verdict.state == "complete":
            self._study.tell(candidate.number, verdict.mean)
        else:
            state = states.PRUNED if verdict.state == "pruned" else states.FAIL
            self._study.tell(candidate.number, state=state)

    def finished(self, before: int | None = None) -> list[tuple[Candidate, base.Verdict]]:
        """Give the finished candidates in order, or only those numbered below `before`."""
        done = [t for t in self._study.get_trials(deepcopy=False) if _VERDICT in t.user_attrs]
        return [
            (self._candidate(t), msgspec.convert(t.user_attrs[_VERDICT], base.Verdict))
            for t in done
            if t.state.is_finished() and (before is None or t.number < before)
        ]

    def best(self, before: int | None = None) -> tuple[Candidate, base.Verdict] | None:
        """Give the best candidate; of equal ones the first."""
        complete = [p for p in self.finished(before) if p[1].state == "complete"]
        return max(complete, key=lambda p: (p[1].mean, -p[0].number), default=None)

    def floor(self, batch: list[Candidate]) -> float | None:
        """Give the worst fold of the best candidate of earlier batches."""
        start = batch[0].number - batch[0].number % self.batch
        best = self.best(before=start)
        return min(best[1].scores) if best else None

    def close(self) -> None:
        """Let the database go."""
        self._storage.remove_session()
        self._storage.engine.dispose()


def _batch(search: training.Search) -> int:
    return min(search.parallel or DEFAULT_BATCH, search.max_trials)


def _total(search: training.Search, grid: int) -> int:
    if search.strategy == "none":
        return 1
    return min(search.max_trials, grid) if search.strategy == "grid" else search.max_trials


def _distributions(search: training.Search) -> dict[str, Any]:
    import optuna

    found: dict[str, Any] = {}
    for name, space in sorted(search.space.items()):
        if not isinstance(space, training.Range):
            choices = [_encoded(value) for value in space]
            found[name] = optuna.distributions.CategoricalDistribution(choices)
        elif space.integer:
            low, high = int(space.low), int(space.high)
            found[name] = optuna.distributions.IntDistribution(low, high, log=space.log)
        else:
            found[name] = optuna.distributions.FloatDistribution(
                space.low, space.high, log=space.log
            )
    return found


def _grid(search: training.Search) -> list[dict[str, str]]:
    """List the grid in the order in which the request spells it; the last name varies fastest."""
    if search.strategy != "grid":
        return []
    lists = [[_encoded(v) for v in values] for values in search.space.values()]  # type: ignore[union-attr]
    combinations = itertools.islice(itertools.product(*lists), search.max_trials)
    return [dict(zip(search.space, values, strict=True)) for values in combinations]


def _encoded(value: Any) -> str:
    """Spell a candidate as JSON: Optuna keeps plain scalars only, and takes 1 and True for one."""
    return msgspec.json.encode(value).decode()
