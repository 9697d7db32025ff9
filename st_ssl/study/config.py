"""What a study compares: methods on networks over seeds, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from st_ssl.core.config import Config, Place, merge, once, override, parse_override, read_yaml, validate
from st_ssl.core.errors import ConfigError, nearest
from st_ssl.engine.run_config import RunConfig, resolve_run
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, finetune_model

NO_ARM = "untrained"
"""The name of the untrained network where a claim names an arm."""
MOST_TRIALS = 4
"""Tuning trials that an arm may have."""
Json = dict[str, Any]


class BudgetConfig(Config):
    """How long every arm is trained. With neither key each arm has the ``engine.epochs`` that it names.

    ``seconds``: equal wall time, measured once for each arm on this hardware and rounded to whole epochs. ``frames``:
    an equal number of frames that go through the encoder (of clouds: clouds), rounded likewise. With both each arm is
    trained once for each."""

    seconds: PositiveFloat | None = None
    frames: PositiveInt | None = None


class NetworkConfig(Config):
    """A network that arms share: ``input`` and ``encoder`` as in a run; ``supervised`` is laid on that of the study."""

    input: Json = Field(default_factory=dict)
    encoder: Json
    supervised: Json = Field(default_factory=dict)


class TuningConfig(Config):
    """Trials of an arm are trained with this ``seed``, which no arm has, and judged on the validation part by the mean
    gain over the untrained network, over all targets and kinds of probes, or those named here."""

    seed: int = 1000
    targets: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None


class ClaimConfig(Config):
    """``more`` gets more than ``less``: two arms, or an arm and "untrained", by a probe of ``kind`` of ``target``, or
    by a logged ``metric`` at the end of the training.

    ``control``: the instrument is broken where it does not come out as ``expect`` says: ``more``, the claim holds, or
    ``not_more``, it does not."""

    name: str
    more: str
    less: str
    target: str | None = None
    kind: str = "knn"
    metric: str | None = None
    control: bool = False
    expect: Literal["more", "not_more"] = "more"

    @model_validator(mode="after")
    def _one_measure(self) -> ClaimConfig:
        if (self.target is None) == (self.metric is None):
            raise ValueError(f"claim {self.name!r}: expected either a target or a metric")
        return self


class StudyConfig(Config):
    """A grid of arms × seeds, each cell a pretraining and its probes.

    ``store``: the folder of finished cells, which studies share. ``run``: keys of every run, on which those of its
    network and its arm are laid. An arm names its ``network`` and, with ``trials``, up to four variants to choose from.
    ``supervised``: keys of a fine-tuning; from scratch with all labels it gives the ceiling of each network and
    target (null: none). ``claims`` compare two arms over the same seeds.
    """

    output_dir: str
    store: str = "runs/studies/cells"
    title: str = ""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    budget: BudgetConfig = BudgetConfig()
    run: Json
    networks: dict[str, NetworkConfig] = Field(min_length=1)
    arms: dict[str, Json] = Field(min_length=1)
    tuning: TuningConfig = TuningConfig()
    supervised: Json | None = None
    claims: tuple[ClaimConfig, ...] = ()

    _once = field_validator("seeds")(once)

    @model_validator(mode="after")
    def _names(self) -> StudyConfig:
        for arm, keys in self.arms.items():
            network = keys.get("network")
            if network not in self.networks:
                near = nearest(str(network), self.networks)
                raise ValueError(f"arms.{arm}.network: {network!r} is not one of {', '.join(self.networks)}{near}")
            trials = keys.get("trials", [])
            if not isinstance(trials, list) or not all(isinstance(one, dict) for one in trials):
                raise ValueError(f"arms.{arm}.trials: expected a list of mappings of keys to values")
            for where, given in ((f"arms.{arm}", keys), *((f"a trial of arms.{arm}", one) for one in trials)):
                for key in ("input", "encoder"):
                    if key in given:
                        raise ValueError(f"{where}: {key} belongs to its network, which all its arms share")
            if len(trials) > MOST_TRIALS:
                raise ValueError(f"arms.{arm}.trials: {len(trials)} are more than {MOST_TRIALS}, which all arms share")
        if NO_ARM in self.arms:
            raise ValueError(f"arms.{NO_ARM}: the name is taken by the network without training")
        for claim in self.claims:
            self._check(claim)
        if self.tuning.seed in self.seeds:
            raise ValueError(f"tuning.seed={self.tuning.seed} is one of seeds: trials need a seed of their own")
        return self

    def _check(self, claim: ClaimConfig) -> None:
        for arm in (claim.more, claim.less):
            if arm not in (*self.arms, NO_ARM):
                near = nearest(arm, (*self.arms, NO_ARM))
                raise ValueError(f"claim {claim.name!r}: no arm is called {arm!r}{near}")
        networks = {self.arms[arm]["network"] for arm in (claim.more, claim.less) if arm != NO_ARM}
        if len(networks) != 1:
            raise ValueError(f"claim {claim.name!r}: its arms must be of one network, not of {len(networks)}")
        if claim.metric is not None and NO_ARM in (claim.more, claim.less):
            raise ValueError(f"claim {claim.name!r}: an untrained network has no metric")


class Study:
    """A study with the configuration of each of its runs."""

    def __init__(self, config: StudyConfig, place: Place) -> None:
        self.config, self._place = config, place
        for arm in config.arms:  # every mistake is told before anything is trained
            for trial in (None, *range(len(config.arms[arm].get("trials", [])))):
                self.run_config(arm, 0, trial)
        for network in config.networks:
            self.supervised_config(network, None)

    def trials(self, arm: str) -> Sequence[Json]:
        """The variants to choose from."""
        return self.config.arms[arm].get("trials", [])

    def network(self, arm: str) -> str:
        """The name of the arm's network."""
        name: str = self.config.arms[arm]["network"]
        return name

    def run_config(self, arm: str, seed: int, trial: int | None = None, epochs: int | None = None) -> RunConfig:
        """The run of an arm, of one of its trials, for so many ``epochs`` (None: as the arm says)."""
        keys = {key: value for key, value in self.config.arms[arm].items() if key not in ("network", "trials")}
        data = merge(self._of_network(self.network(arm)), keys)
        if trial is not None:
            data = merge(data, self.trials(arm)[trial])
        data = merge(data, {"output_dir": "-", "seed": seed})
        if epochs is not None:
            data = merge(data, {"engine": {"epochs": epochs}})
        sections: list[tuple[str, ...]] = [("run",), ("networks", self.network(arm)), ("arms", arm)]
        if trial is not None:
            sections.append(("arms", arm, "trials", str(trial)))
        config = resolve_run(data, [], self._place.within(*sections))
        if config.probe is None:
            raise ConfigError(f"arms.{arm}: probe: a study needs probes")
        return config

    def supervised_config(self, network: str, target: str | None) -> FinetuneConfig | None:
        """The training with labels that gives the ceiling of a ``target``; None where the study has none."""
        if self.config.supervised is None:
            return None
        arm = next((arm for arm in self.config.arms if self.network(arm) == network), None)
        if arm is None:
            return None
        keys = merge(self.config.supervised, self.config.networks[network].supervised)
        keys = {"baselines": False, "curve": False, "save": "none", "seeds": 1, "val_share": 0, **keys}
        if target is not None:
            keys = merge(keys, {"task": {"target": target}})
        data = self.run_config(arm, 0).data.model_dump(mode="json")
        keys |= {"modes": ["scratch"], "label_fractions": [1.0], "data": data}
        place = self._place.within(("supervised",), ("networks", network, "supervised"))
        config: FinetuneConfig = validate(finetune_model(), keys, place)
        return config

    def _of_network(self, name: str) -> Json:
        network = self.config.networks[name]
        return merge(self.config.run, {"input": network.input, "encoder": network.encoder})


def load_study(file: Path, overrides: Sequence[str] = ()) -> Study:
    """The study in a YAML file, with ``key=value`` overrides. Raises ``ConfigError`` that names the key, before
    anything is trained."""
    data, place = read_yaml(file)
    parsed = [(*parse_override(text), text) for text in overrides]
    data = override(data, parsed, place)
    config: StudyConfig = validate(StudyConfig, data, place)
    return Study(config, place)


def told_changes(trial: Mapping[str, Any], prefix: str = "") -> str:
    """The keys that a trial changes, for people: "optim.lr=0.001, engine.batch_size=64"."""
    parts = []
    for key, value in trial.items():
        inner = isinstance(value, Mapping)
        parts.append(told_changes(value, f"{prefix}{key}.") if inner else f"{prefix}{key}={value}")
    return ", ".join(parts)
