"""Typed tables from a plug-in's name to "module:Class"; nothing is imported until a name is asked for.

A new method, extractor, detector or task is one file and one line here. Packages outside madpipe add theirs as entry
points of the table's group (for example `[project.entry-points."madpipe.detectors"]`), looked up when a name is not in
the table.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from madpipe.errors import unknown


class Table(Mapping[str, str]):
    """name -> "module:Class" for one kind of plug-in; `load` imports the class."""

    def __init__(self, kind: str, group: str, entries: Mapping[str, str]):
        self.kind, self.group, self._entries = kind, group, dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str, where: str = "") -> Any:
        """The class registered under `name`; UnknownNameError names the nearest one.

        `where` opens the message: the config key that held the name.
        """
        if name in self._entries:
            module, _, attribute = self._entries[name].partition(":")
            return getattr(import_module(module), attribute)
        external = {point.name: point for point in entry_points(group=self.group)}
        if name in external:
            return external[name].load()
        raise unknown(self.kind, name, [*self._entries, *external], where)


METHODS = Table(
    "method",
    "madpipe.methods",
    {
        "apd": "madpipe.decomposition.apd:APD",
        "spd": "madpipe.decomposition.spd:SPD",
        "vpd": "madpipe.decomposition.vpd:VPD",
    },
)

EXTRACTORS = Table(
    "extractor",
    "madpipe.extractors",
    {
        "activations": "madpipe.patterns.activations:Activations",
        "attributions": "madpipe.patterns.attributions:Attributions",
        "causal_importances": "madpipe.patterns.causal_importances:CausalImportances",
        "delta": "madpipe.patterns.delta:DeltaAttribution",
        "dictionary_latents": "madpipe.patterns.dictionary_latents:DictionaryLatents",
        "gram_matrices": "madpipe.patterns.gram_matrices:GramMatrices",
        "inner_activations": "madpipe.patterns.inner_activations:InnerActivations",
        "inputs": "madpipe.patterns.inputs:Inputs",
        "outputs": "madpipe.patterns.outputs:Outputs",
        "reconstruction": "madpipe.patterns.reconstruction:Reconstruction",
        "strip": "madpipe.patterns.strip:Strip",
        "student": "madpipe.patterns.student:Student",
        "trusted_copy": "madpipe.patterns.trusted_copy:TrustedCopy",
    },
)

DETECTORS = Table(
    "detector",
    "madpipe.detectors",
    {
        "gaussian_mixture": "madpipe.detectors.gaussian_mixture:GaussianMixtureDetector",
        "isolation_forest": "madpipe.detectors.isolation_forest:IsolationForestDetector",
        "knn": "madpipe.detectors.nearest_neighbours:NearestNeighboursDetector",
        "lof": "madpipe.detectors.local_outlier_factor:LocalOutlierFactorDetector",
        "mahalanobis": "madpipe.detectors.mahalanobis:MahalanobisDetector",
        "mahalanobis_per_class": "madpipe.detectors.mahalanobis_per_class:MahalanobisPerClass",
        "mahalanobis_per_site": "madpipe.detectors.mahalanobis_per_site:MahalanobisPerSite",
        "median_deviation": "madpipe.detectors.median_deviation:MedianDeviation",
        "one_class_svm": "madpipe.detectors.one_class_svm:OneClassSVMDetector",
        "quantum_entropy": "madpipe.detectors.quantum_entropy:QuantumEntropy",
        "relative_mahalanobis": "madpipe.detectors.relative_mahalanobis:RelativeMahalanobis",
        "soft_maximum": "madpipe.detectors.soft_maximum:SoftMaximum",
        "spectral_signature": "madpipe.detectors.spectral_signature:SpectralSignature",
        "standardised_mean": "madpipe.detectors.standardised_mean:StandardisedMean",
        "surprise": "madpipe.detectors.surprise:Surprise",
        "topological_evolution": "madpipe.detectors.topological_evolution:TopologicalEvolution",
        "two_sided_mahalanobis": "madpipe.detectors.two_sided_mahalanobis:TwoSidedMahalanobis",
    },
)

TASKS = Table(
    "task",
    "madpipe.tasks",
    {
        "adversarial": "madpipe.tasks.adversarial:AdversarialTask",
        "boolean": "madpipe.tasks.boolean:BooleanTask",
        "co_activation": "madpipe.tasks.co_activation:CoActivationTask",
        "compressed_computation": "madpipe.tasks.compressed_computation:CompressedComputationTask",
        "cross_layer": "madpipe.tasks.cross_layer:CrossLayerTask",
        "digits": "madpipe.tasks.digits:DigitsTask",
        "gated_functions": "madpipe.tasks.gated_functions:GatedFunctionsTask",
        "induction": "madpipe.tasks.induction:InductionTask",
        "measurement_tampering": "madpipe.tasks.measurement_tampering:MeasurementTamperingTask",
        "out_of_distribution": "madpipe.tasks.out_of_distribution:OutOfDistributionTask",
        "quirky_transformer": "madpipe.tasks.quirky_transformer:QuirkyTransformerTask",
        "superposition": "madpipe.tasks.superposition:SuperpositionTask",
    },
)
