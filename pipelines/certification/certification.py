"""The steps of a certification: split, train, certify, select and export."""

import copy
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from crossmodal import models
from crossmodal.certificates.certificate import certify, monte_carlo_upper
from crossmodal.certificates.gaussians import ScaleGrid, Snapped, kl_divergence, snap, spherical
from crossmodal.certificates.posterior import GaussianPosterior, with_fixed_statistics, without_running_statistics
from crossmodal.certificates.simclr import mcdiarmid_mcallester, simclr_difference
from crossmodal.certificates.tuples import Tuples
from crossmodal.checkpoint import write
from crossmodal.data.held_out import hold_out
from crossmodal.data.reader import sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Encoder
from crossmodal.metrics.mean_classifier import class_means, mean_classifier
from crossmodal.modules.certified_risk import Examples
from crossmodal.modules.certifying import Certifying, ExampleViews, Network, Penalty, Projected, project_teacher
from crossmodal.modules.pretraining import name_crop
from crossmodal.objectives import Batch
from pipelines.building.data import leave_out, open_parts, open_shards, open_views
from pipelines.building.encoders import build_student
from pipelines.building.exporting import export_encoder
from pipelines.building.teachers import build_teachers
from pipelines.config import ConfigError, at
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder
from pipelines.runs.lineage import count_copies, refuse_seen
from pipelines.schemas.certify import RULES, Config
from pipelines.schemas.common import StudentConfig, TeacherConfig
from pipelines.training.accelerator import open_accelerator
from pipelines.training.launcher import refuse_sharded
from pipelines.training.loop import Training, seed_everything

PRIOR = "prior"  # name of the posterior that equals the prior
BATCH = 256  # pairs that are embedded at a time
FEW, REPEATS = 5, 5  # pairs of each class for mu-5, and number of draws of them


@dataclass(frozen=True)
class Split:
    """The shards by use."""

    certified: Shards
    validation: Shards | None
    prior: Shards | None
    test: Shards


@dataclass(frozen=True)
class Certification:
    """The prior, the posteriors and their certificates.

    Raises:
        ConfigError: the config is inconsistent, or a prior has seen certified pairs.
    """

    config: Config
    run: RunFolder

    def certify(self) -> dict[str, Any]:
        """Trains the posteriors that are missing, certifies all, exports the selected one; gives the metrics."""
        self._refuse_large_batches()
        self._refuse_seen()
        copies, untold = self._count_copies()
        examples = self.examples["train"]  # refuses before training what cannot be certified
        if groups := self.split.certified.manifest.number_of_groups:
            say(f"{self.run.path}: {len(self.split.certified)} pairs of {groups} "
                "groups are certified; the certificate assumes independent draws")  # fmt: skip
        networks, figures = self._train()
        distributed.from_main(self.run.begin)  # if nothing was left to train
        rows = {name: self._judge(name, network, len(networks)) for name, network in networks.items()}
        if not self.accelerator.is_main_process:
            return {}
        selected = {rule: self._select(rows, rule) for rule in RULES if rule == "bound" or self.config.validation}
        self._export(networks[selected[self.config.select]])
        for rule, name in selected.items():
            row = rows[name]
            say(f"{self.run.path}: by {rule}: {name}, risk {row['train_risk']:.3f}, bound {row['total']:.3f}, "
                f"on unseen pairs {row['test_risk']:.3f}")  # fmt: skip
        return {
            "rows": rows, "selected": selected, "examples": examples.count, "pairs_of_an_example": self.tuples.pairs,
            "delta": self.config.certificate.delta, "greatest": self.tuples.greatest, "training": figures,
            "select": self.config.select, "copies": copies, "untold": untold,
            "pairs": {name: len(part) for name, part in vars(self.split).items() if part is not None},
        }  # fmt: skip

    @cached_property
    def accelerator(self) -> Any:
        """The device and processes of the run."""
        for key, train in (("train", self.config.train), ("prior.train", self.config.prior.train)):
            if train.checkpoint_activations:
                raise ConfigError([f"{key}.checkpoint_activations: certify draws new weights at every step, and would "
                                   "compute activations again with others; leave it out"])  # fmt: skip
        refuse_sharded("certify, whose networks draw their weights at every step,")
        return open_accelerator(self.config.train, self.run.path)

    @cached_property
    def split(self) -> Split:
        """The shards by use."""
        config = self.config
        rest, held_out = open_parts(config.data, config.held_out, "data" if config.test else "held_out")
        test = held_out or open_shards(config.test or "", "test")
        read = [config.views[network.view].modality for network in (config.encoder, config.teacher) if network]
        rest, test = leave_out(rest, read, "data"), leave_out(test, read, "test" if config.test else "held_out")
        ours, theirs = rest.manifest.classes, test.manifest.classes
        if ours and theirs and ours != theirs:
            raise ConfigError([f"test: {test.folder} must have the same classes as data, {rest.folder}, or none"])
        prior = validation = None
        if config.prior.share:
            with at("prior.share"):
                rest, prior = hold_out(rest, config.prior.share, config.seed)
        if config.validation:
            with at("validation"):
                rest, validation = hold_out(rest, config.validation, config.seed)
        return Split(rest, validation, prior, test)

    @cached_property
    def tuples(self) -> Tuples:
        """The form of a certified example: one or more pairs and a loss."""
        config = self.config.tuples
        block = config.block or (2 if config.positives == "class" else 1)
        with at("tuples"):
            return Tuples("class" if config.positives == "class" else "pair", config.loss, config.negatives, block,
                          config.scale)  # fmt: skip

    @cached_property
    def _opened(self) -> dict[str, View]:
        """The config's views on the certified pairs."""
        networks: dict[str, TeacherConfig | StudentConfig] = {"encoder": self.config.encoder}
        if self.config.teacher is not None:
            networks["teacher"] = self.config.teacher
        return open_views(self.split.certified, self.config.views, networks)

    @cached_property
    def views(self) -> dict[str, View]:
        """The opened views of the encoder and the teacher."""
        opened = self._opened
        own = self.config.encoder.view
        if self.config.tuples.positives == "crop":
            return {name_crop(own, crop): View(opened[own].modality, crop=crop) for crop in range(2)}
        teacher = self.config.teacher
        return {name: opened[name] for name in (own, *([teacher.view] if teacher else []))}

    @cached_property
    def crop(self) -> Crop | None:
        """The crop of certified examples, if two crops of a pair are positives."""
        return Crop(**asdict(self.config.train.crop)) if self.config.tuples.positives == "crop" else None

    @cached_property
    def grid(self) -> ScaleGrid | None:
        """The grid of scales of a learned prior; None for a fixed scale."""
        settings = self.config.certificate
        return ScaleGrid(settings.greatest_variance, settings.steps) if self.config.prior.learned else None

    @cached_property
    def start(self) -> tuple[Encoder, ExampleViews]:
        """The network before training, and the views of its examples."""
        config, own = self.config, self.config.encoder.view
        opened = self._opened
        encoder = build_student(config.encoder, opened, 0, key="encoder")
        if config.teacher is None:
            names = [*self.views]
            return encoder, ExampleViews(names[0], names[-1])
        teacher = build_teachers({"teacher": config.teacher}, opened)["teacher"]
        teacher.encoder.to(self.accelerator.device)
        weights = config.encoder.weights
        with at("encoder.weights"):
            if weights is None:
                raise ValueError("must be the folder of a transfer if teacher is set, because its head compares both")
            heads = models.load_model(weights).heads
            if not heads:
                raise ValueError(f"{weights} has no head that compares it with a teacher; use a student of crossmodal "
                                 "transfer")  # fmt: skip
            head = next(iter(heads.values())).requires_grad_(True)
            network = Projected(encoder, head, teacher.spec.dim, opened[own].modality.shape)
        frozen = copy.deepcopy(head).to(self.accelerator.device).requires_grad_(False)

        def fixed(batch: Batch) -> Tensor:
            return project_teacher(frozen, encoder.spec.dim, teacher.forward(batch))

        return network, ExampleViews(own, config.teacher.view, fixed)

    @property
    def _learnt(self) -> bool:
        """True if the prior was trained, so that its batch norms have statistics."""
        return self.split.prior is not None or self.config.encoder.weights is not None

    @property
    def _changes_norms(self) -> bool:
        return not self._learnt and any(isinstance(item, torch.nn.BatchNorm2d) for item in self.start[0].modules())

    @cached_property
    def examples(self) -> dict[str, Examples]:
        """The examples of the certified, test and validation pairs."""
        config, planned = self.config, {}
        for name, key, shards in (
            ("train", "data", self.split.certified),
            ("test", "test" if config.test else "held_out", self.split.test),
            ("validation", "validation", self.split.validation),
        ):
            if shards is not None:
                with at(key):
                    how = {"at_once": config.certificate.at_once, "workers": config.train.workers}
                    planned[name] = Examples.plan(
                        shards, self.views, self.tuples, crop=self.crop, seed=config.seed, **how
                    )
        return planned

    def _refuse_seen(self) -> None:
        if self.config.prior.unseen:
            return
        for key, network in (("encoder", self.config.encoder), ("teacher", self.config.teacher)):
            if network is not None and network.weights is not None:
                refuse_seen(network.weights, self.split.certified, f"{key}.weights")

    def _count_copies(self) -> tuple[int, list[str]]:
        """The number of test pairs that were trained on; see `count_copies`."""
        config = self.config
        if config.test is None:
            return 0, []
        weights = [each.weights for each in (config.encoder, config.teacher) if each is not None and each.weights]
        return count_copies(self.split.test, open_shards(config.data, "data"), weights, "test")

    def _refuse_large_batches(self) -> None:
        """Refuses a batch of more pairs than a part has, before another part is trained on."""
        config = self.config
        for key, train, part in (("prior.train", config.prior.train, self.split.prior),
                                 ("train", config.train, self.split.certified)):  # fmt: skip
            if part is not None and train.batch_size > len(part):
                raise ConfigError([f"{key}.batch_size: {train.batch_size} pairs a step are more than the {len(part)} "
                                   "pairs to train on; lower it"])  # fmt: skip

    def _train(self) -> tuple[dict[str, GaussianPosterior], dict[str, Any]]:
        """The posteriors by name, first the prior itself, and the metrics of every training."""
        config = self.config
        seed_everything(config.seed, "weights")
        encoder, figures = self.start[0], {}
        if self.split.prior is not None:
            figures[PRIOR] = self._fit(encoder, self.split.prior, PRIOR)
            distributed.copy_from_main(encoder.state_dict().values())  # each process has its own running statistics
        encoder = (with_fixed_statistics if self._learnt else without_running_statistics)(encoder)
        std = config.prior.std
        if self.grid is not None:
            with at("prior.std"):  # on the grid, so that the prior as posterior has divergence 0
                std = self.grid.std(self.grid.neighbours(std)[-1]).item()
        networks = {PRIOR: GaussianPosterior(encoder, std=std)}
        networks[PRIOR].log_prior_std.requires_grad_(config.prior.learned)
        for name, trade_off in zip(config.names, config.trade_offs, strict=True):
            network = copy.deepcopy(networks[PRIOR])
            penalty = Penalty(trade_off, config.certificate.delta, self.grid)
            figures[name] = self._fit(network, self.split.certified, name, penalty)
            networks[name] = network
        return networks, figures

    def _fit(self, network: Network, shards: Shards, name: str, penalty: Penalty | None = None) -> dict[str, Any]:
        module = Certifying(network, self.tuples, self.start[1], penalty)
        config = self.config.train if penalty else self.config.prior.train
        step = lambda model, batch: model(batch)  # noqa: E731
        run, seed = self.run, self.config.seed
        return Training(self.accelerator, run, config, module, step, shards, self.views, seed, phase=name).fit()

    def _judge(self, name: str, network: GaussianPosterior, choices: int) -> dict[str, Any]:
        """All metrics of a posterior; cached in a file, because they take long. All processes share the work."""
        path = self.run.path / "posteriors" / f"{name}.json"
        known = distributed.from_main(lambda: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None)
        if known is not None:
            return known
        examples = self.examples["train"]
        say(f"{self.run.path}: certifying {name} on {examples.count} examples")
        settings, device, branch = self.config.certificate, self.accelerator.device, self.start[1]
        network.to(device)
        distributed.copy_from_main(network.tensors())  # such as statistics, which training leaves different
        risk_of = partial(Examples.risk, network=network, branch=branch, device=device, spread=distributed.spread)
        risk, draws = risk_of(examples, draws=settings.draws, name=name)
        place = self._place(network)
        # one posterior is selected, so the bound on draws must hold for all (a union); the bound on pairs does
        share = settings.delta_monte_carlo / choices
        # simclr has two bounds over pairs, and the smaller may be used
        over_pairs = (settings.delta - settings.delta_monte_carlo) / (2 if self.tuples.loss == "simclr" else 1)
        certificate = certify(
            risk, place.divergence, examples=examples.count, draws=draws, union=place.union,
            delta=over_pairs + share, delta_monte_carlo=share, greatest=self.tuples.greatest,
        )  # fmt: skip
        values = asdict(certificate) | {"shares": certificate.shares(), "prior_std": place.std}
        if self.tuples.loss == "simclr":
            values["mcdiarmid"] = self._mcdiarmid(values)
        for part, others in self.examples.items():
            values[f"{part}_mean_weights"], _ = risk_of(others)
            if part != "train":
                values[f"{part}_risk"], _ = risk_of(others, draws=1, name=name)
        if all(any(part.manifest.labels.values()) for part in (self.split.certified, self.split.test)):
            values["classifier"] = self._classify(network)
        if self.accelerator.is_main_process:
            path.parent.mkdir(exist_ok=True)
            write(path, json.dumps(values, indent=1) + "\n")
        return values

    @torch.no_grad()
    def _place(self, network: GaussianPosterior) -> Snapped:
        """The prior's scale, on the grid if it was learned, and the divergence of the posterior from the prior."""
        std = network.log_prior_std.double().exp().item()
        if self.grid is None:
            kl = kl_divergence(network.posterior, spherical(network.prior_mean, std))
            return Snapped(0, std, kl.clamp(min=0).item(), 0.0)
        std = min(std, self.grid.std(1).item())
        return snap(network.posterior, network.prior_mean, std, grid=self.grid)

    def _mcdiarmid(self, found: dict[str, Any]) -> float:
        """The second bound on the SimCLR loss, from the same draws."""
        greatest, batch = found["greatest"], self.tuples.pairs
        share, pairs = found["delta_monte_carlo"], found["examples"] * batch
        upper = greatest * monte_carlo_upper(found["train_risk"] / greatest, found["draws"], delta=share)
        rest = {"delta": found["delta"] - share, "difference": simclr_difference(1 / self.tuples.scale, batch)}
        return mcdiarmid_mcallester(upper, found["kl"], pairs, union=found["union"], **rest)

    def _classify(self, network: GaussianPosterior) -> dict[str, dict[str, float]]:
        """Metrics of the mean classifier on mean weights, from all certified pairs and from a few of each class."""
        train, labels = self._embed(network, self.split.certified)
        test, truth = self._embed(network, self.split.test)
        few = [
            mean_classifier(class_means(train, labels, shots=FEW, seed=seed), test, truth) for seed in range(REPEATS)
        ]
        mean = {name: math.fsum(each[name] for each in few) / REPEATS for name in few[0]}
        return {"mu": mean_classifier(class_means(train, labels), test, truth), f"mu-{FEW}": mean}

    @torch.no_grad()
    def _embed(self, network: GaussianPosterior, shards: Shards) -> tuple[Tensor, Tensor]:
        own, weights, device = next(iter(self.views)), network.mean(), self.accelerator.device

        def sweep(indices: range) -> tuple[Tensor, Tensor]:
            rows, labels = [torch.empty(0, network.spec.dim)], [torch.empty(0, dtype=torch.int64)]
            for part in sweep_parts(
                shards, {own: self.views[own]}, batch_size=BATCH, workers=self.config.train.workers, indices=[*indices]
            ):
                batch = to_batch(part, {own: self.views[own]}, device)
                rows.append(network(batch.inputs[own], weights).embedding.float().cpu())
                labels.append(part.label)
            return torch.cat(rows), torch.cat(labels)

        rows, labels = distributed.together(lambda: sweep(distributed.share(len(shards), BATCH)))
        return distributed.join_rows(rows), distributed.join_rows(labels)

    def _select(self, rows: dict[str, dict[str, Any]], rule: str) -> str:
        key = {"bound": "total", "stochastic": "validation_risk", "deterministic": "validation_mean_weights"}[rule]
        return min(rows, key=lambda name: rows[name][key])

    def _export(self, network: GaussianPosterior) -> None:
        """Writes the posterior; also its mean weights as a model, if they fit the config's encoder."""
        mean = {name: item.detach().cpu().contiguous() for name, item in network.posterior.mean.items()}
        std = {f"std.{name}": item.detach().cpu().contiguous() for name, item in network.posterior.std.items()}
        both = {f"mean.{name}": item for name, item in mean.items()} | std
        write(self.run.path / "posterior.safetensors", save(both))
        encoder = self.start[0]
        if self._changes_norms:
            say(f"{self.run.path}: no model is exported, because group norm replaces the encoder's batch norm; to get "
                "one, choose an encoder without batch norm (norm: group)")  # fmt: skip
            return
        encoder.load_state_dict(mean, strict=False)
        encoder = encoder.student if isinstance(encoder, Projected) else encoder
        export_encoder(self.run.path / "model", self.config.encoder, self.config.views, self._opened, encoder)
