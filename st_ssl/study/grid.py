"""Which cells a study has, and what is known of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from st_ssl.core.config import Config
from st_ssl.data.base import DATA, DataSource
from st_ssl.encoders.base import ENCODERS
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.run_files import FREE_KEYS
from st_ssl.methods.base import METHODS
from st_ssl.study.cells import Cell, Json, Store
from st_ssl.study.code import code_version, module_of
from st_ssl.study.compare import mean_gain
from st_ssl.study.config import Study
from st_ssl.transfer.features.features import split_entries
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.outcomes import sample_name
from st_ssl.transfer.probes.sets import find_targets
from st_ssl.transfer.tasks.base import TASKS

TIME, FRAMES = "time", "frames"
"""The budgets that arms may share."""
_ENGINE = "st_ssl.engine.trainer"
_PROBES = ("st_ssl.transfer.probes.probe", "st_ssl.study.making")
_FINETUNE = "st_ssl.transfer.fitting.finetune"
_PLACES = {"root", "index", "num_workers", "sample_timeout", "max_bad_share"}  # of data: no result depends on them
_NO_RESULT = {"output_dir", "report", "logging", "data"}


@dataclass(frozen=True)
class Group:
    """Cells that are held against each other, and so made on one machine."""

    network: str
    seed: int


class Grid:
    """The cells of a study on one ``hardware``."""

    def __init__(self, study: Study, store: Store, hardware: str) -> None:
        self.study, self.store, self.hardware = study, store, hardware
        self._sources: dict[str, DataSource] = {}
        self._digests: dict[str, str] = {}

    def on(self, hardware: str) -> Grid:
        """The same study elsewhere."""
        other = Grid(self.study, self.store, hardware)
        other._sources, other._digests = self._sources, self._digests
        return other

    @property
    def budgets(self) -> list[str]:
        """What all arms have an equal amount of, each for itself; [""] where each arm says itself how long it is."""
        budget = self.study.config.budget
        given = {TIME: budget.seconds, FRAMES: budget.frames}
        return [name for name, amount in given.items() if amount is not None] or [""]

    @property
    def groups(self) -> list[Group]:
        """All groups of cells, seed by seed."""
        used = dict.fromkeys(map(self.study.network, self.study.config.arms))
        return [Group(network, seed) for seed in self.study.config.seeds for network in used]

    def arms(self, network: str) -> list[str]:
        """The arms of a network."""
        return [arm for arm in self.study.config.arms if self.study.network(arm) == network]

    def source(self, config: Config) -> DataSource:
        """The data of a configuration; one for all that are alike."""
        key = config.model_dump_json()
        if key not in self._sources:
            self._sources[key] = DATA.build(config)
        return self._sources[key]

    def targets(self, network: str) -> list[str]:
        """The targets with classes that arms of a network are probed for."""
        config = self.study.run_config(self.arms(network)[0], 0)
        assert config.probe is not None
        splits = split_entries(self.source(config.data).entries(), config.probe.test_share, config.probe.limit)
        return list(find_targets(splits, config.probe)[0])

    # ---------------------------------------------------------------- cells

    def pace(self, arm: str) -> Cell:
        """How long an epoch of an arm takes."""
        config = self.study.run_config(arm, 0, epochs=1)
        code = self._code(_ENGINE, config, *self._of_method(config))
        return Cell("pace", self.study.network(arm), self._run_inputs(config), code, self.hardware, arm=arm)

    def arm(self, arm: str, seed: int, budget: str, trial: int | None = None) -> Cell | None:
        """A training of an arm; None while it is not known how many epochs the budget is."""
        epochs = None
        if budget:
            if (known := self.store.read(self.pace(arm))) is None:
                return None
            asked = self.study.config.budget.seconds if budget == TIME else self.study.config.budget.frames
            assert asked is not None
            epochs = max(1, round(asked / known["result"]["seconds" if budget == TIME else "frames"]))
        config = self.study.run_config(arm, seed, trial, epochs)
        code = self._code(_ENGINE, config, *_PROBES, *self._of_method(config))
        about = {"arm": arm, "seed": seed, "budget": budget, "trial": trial}
        return Cell("arm", self.study.network(arm), self._run_inputs(config), code, self.hardware, **about)  # type: ignore[arg-type]

    def config(self, cell: Cell) -> RunConfig:
        """The run of an arm's cell."""
        return self.study.run_config(cell.arm, cell.seed, cell.trial, cell.inputs["engine"]["epochs"])

    def reference(self, network: str, seed: int) -> Cell:
        """The untrained network and trivial baselines."""
        config = self.study.run_config(self.arms(network)[0], seed)
        inputs = self._run_inputs(config)
        inputs = {key: inputs[key] for key in ("seed", "input", "encoder", "probe", "data")}
        return Cell("reference", network, inputs, self._code(*_PROBES, config), self.hardware, seed=seed)

    def supervised(self, network: str, target: str) -> Cell | None:
        """The network trained with all labels of a target; None where the study has no such ceiling."""
        tuned = self.study.supervised_config(network, target)
        if tuned is None:
            return None
        config = self.study.run_config(self.arms(network)[0], 0)
        inputs: Json = {key: self._run_inputs(config)[key] for key in ("input", "encoder", "data")}
        inputs["finetune"] = {
            key: v for key, v in tuned.model_dump(mode="json").items() if key not in ("data", "device")
        }
        code = self._code(_FINETUNE, config, module_of(TASKS.registered(tuned.task.name)))
        return Cell("supervised", network, inputs, code, self.hardware, target=target)

    def finetuning(self, cell: Cell) -> FinetuneConfig:
        """The training of a supervised cell."""
        found = self.study.supervised_config(cell.network, cell.target)
        assert found is not None
        return found

    def chosen_trial(self, arm: str) -> int | None:
        """The best trial of an arm on the validation part, the first of equal ones; None where it has none, or they are
        not done."""
        figures = self.trial_figures(arm)
        if not figures or any(figure is None for figure in figures):
            return None
        return max(range(len(figures)), key=lambda number: figures[number] or 0.0)

    def trial_figures(self, arm: str) -> list[float | None]:
        """Of each trial of an arm the mean gain over the untrained network on the validation part, in points."""
        tuning = self.study.config.tuning
        reference = self.store.read(self.reference(self.study.network(arm), tuning.seed))
        found: list[float | None] = []
        for cell in self.trials(arm):
            done = None if cell is None else self.store.read(cell)
            known = done is not None and reference is not None
            found.append(mean_gain(done, reference, tuning) if known else None)  # type: ignore[arg-type]
        return found

    def trials(self, arm: str) -> list[Cell | None]:
        """The tuning trials of an arm, by the first of the budgets."""
        seed, budget = self.study.config.tuning.seed, self.budgets[0]
        return [self.arm(arm, seed, budget, trial) for trial in range(len(self.study.trials(arm)))]

    def of_group(self, group: Group) -> Iterator[Cell | None]:
        """The cells of a group, but for trials; None for one that cannot be told yet."""
        yield self.reference(group.network, group.seed)
        for arm in self.arms(group.network):
            trial = self.chosen_trial(arm)
            if trial is None and self.study.trials(arm):
                yield from [None] * len(self.budgets)
                continue
            for budget in self.budgets:
                yield self.arm(arm, group.seed, budget, trial)

    # ---------------------------------------------------------------- what results depend on

    def _run_inputs(self, config: RunConfig) -> Json:
        told = config.model_dump(mode="json", exclude=_NO_RESULT)
        free = [key.partition(".") for key in FREE_KEYS]
        for section, _, key in free:
            if key and section in told:
                told[section].pop(key, None)
        data = config.data.model_dump(mode="json", exclude=_PLACES)
        return {**told, "data": {**data, "samples": self._samples(config.data)}}

    def _samples(self, data: Config) -> str:
        """Tells data sets apart: names, parts and labels of all samples, wherever they are."""
        key = data.model_dump_json()
        if key not in self._digests:
            entries = self.source(data).entries()
            rows = ([sample_name(e).rpartition("/")[2], e.split, sorted(e.labels.items())] for e in entries)
            self._digests[key] = hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()[:16]
        return self._digests[key]

    def _of_method(self, config: RunConfig) -> Sequence[str]:
        others = (module_of(ENCODERS.registered(one.encoder.name)) for one in config.encoders.values())
        return [module_of(METHODS.registered(config.method.name)), *others]

    def _code(self, *parts: str | RunConfig) -> str:
        roots: list[str] = []
        for part in parts:
            if isinstance(part, str):
                roots.append(part)
            else:
                roots += [module_of(ENCODERS.registered(part.encoder.name)), module_of(type(self.source(part.data)))]
        return code_version(roots)
