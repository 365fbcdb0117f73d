"""A study's file: its patches, its encoders, its methods, and how it is cut; read, checked, and opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathotune_pipeline.encoders.card import EncoderSpec
from pathotune_pipeline.errors import SpecError
from pathotune_pipeline.registry import nearest
from pathotune_pipeline.spec import Spec, load_yaml, setting
from pathotune_pipeline.tuning.patches.spec import PatchSpec
from pathotune_pipeline.tuning.run.spec import AdaptSpec
from pathotune_pipeline.tuning.studies.spec import DomainsSpec, ProtocolSpec, RetrievalSpec, ScalingSpec

OWN_NETWORK = ("cnn",)
"""Methods that begin without any of the study's encoders."""


class SlideSource(Spec):
    """Labelled slides of a store."""

    store: str = setting("", "The store's folder or address.")
    features: dict[str, str] = setting({}, "A name for each feature set, and the set's name or its beginning.")
    labels: Path = setting(Path("labels.csv"), "Table of slides, patients and labels.")
    target: str = setting("", "The table's column that holds the class.")
    splits: Path | None = setting(None, "File of train, val and test slides; empty: they are cut by patient.")


class StudyFile(Spec):
    """What a study compares, on what. Paths are relative to where the command is run."""

    title: str = setting("", "Heading of the page.")
    note: str = setting("", "What a reader of the page should know of the data.")
    patches: PatchSpec = PatchSpec()
    encoders: dict[str, dict[str, Any]] = setting({}, "A name for each encoder, and its settings as under `encoder`.")
    adapt: dict[str, Any] = setting({}, "Settings of every method, as under `adapt`.")
    methods: dict[str, dict[str, Any]] = setting(
        {}, "A name for each method; what of its settings differs, and `encoders`: those it is tried on, or all."
    )
    baseline: str = setting(
        "", 'The row that others are compared with, as "encoder, method"; empty: the first of the tables.'
    )
    scaling: dict[str, Any] = setting({}, "How `study scaling` cuts and trains.")
    domains: dict[str, Any] = setting({}, "How `study domains` cuts and trains.")
    slides: SlideSource | None = setting(None, "Slides of a store, for `study protocol`, instead of patches.")
    protocol: dict[str, Any] = setting({}, "What `study protocol` does otherwise than eva.")
    retrieval: dict[str, Any] = setting({}, "How `study retrieval` asks.")

    @classmethod
    def read(cls, path: Path) -> StudyFile:
        """The file's settings.

        Raises:
            SpecError: it cannot be read, or a setting is wrong.
        """
        where = f"--study {path}"
        loaded = load_yaml(path, where)
        if not isinstance(loaded, dict):
            raise SpecError(f"{where}: must hold settings such as patches, encoders and methods; found {loaded!r}.")
        return cls.parse(loaded, where)

    def encoder_specs(self) -> dict[str, EncoderSpec]:
        """Settings of each encoder by its name.

        Raises:
            SpecError: one is wrong.
        """
        return {name: EncoderSpec.parse(values, f"encoders.{name}") for name, values in self.encoders.items()}

    def rows(self) -> list[tuple[str, str, AdaptSpec]]:
        """Encoder's name ("" for a network of its own), method's name and settings, in the order of the tables.

        Raises:
            SpecError: a setting is wrong, an encoder is not among the study's, or there is nothing to compare.
        """
        found = []
        for name, values in self.methods.items():
            own = dict(values)
            asked = own.pop("encoders", None)
            spec = AdaptSpec.parse(merged(self.adapt, own), f"methods.{name}")
            if spec.method in OWN_NETWORK:
                found.append(("", name, spec))
                continue
            for encoder in asked if asked is not None else self.encoders:
                if encoder not in self.encoders:
                    told = f"{nearest(str(encoder), self.encoders)} Known: {', '.join(self.encoders) or 'none'}."
                    raise SpecError(f"methods.{name}.encoders: there is no encoder {encoder!r}.{told}")
                found.append((encoder, name, spec))
        if not found:
            raise SpecError("A study needs methods, and encoders for them. Name both in its file.")
        order = {name: place for place, name in enumerate((*self.encoders, ""))}
        return sorted(found, key=lambda row: order[row[0]])

    def scaling_spec(self, flags: Mapping[str, Any]) -> ScalingSpec:
        """Its own settings with what flags say over them."""
        return ScalingSpec.parse(merged(self.scaling, flags), "scaling")

    def domains_spec(self, flags: Mapping[str, Any]) -> DomainsSpec:
        """Its own settings with what flags say over them."""
        return DomainsSpec.parse(merged(self.domains, flags), "domains")

    def protocol_spec(self, flags: Mapping[str, Any]) -> ProtocolSpec:
        """Its own settings with what flags say over them."""
        return ProtocolSpec.parse(merged(self.protocol, flags), "protocol")

    def retrieval_spec(self, flags: Mapping[str, Any]) -> RetrievalSpec:
        """Its own settings with what flags say over them."""
        return RetrievalSpec.parse(merged(self.retrieval, flags), "retrieval")


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the second over the first."""
    found = dict(under)
    for name, value in over.items():
        below = found.get(name)
        found[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found
