"""Artifacts with a pedigree, and figures over time. Nothing here reaches torch."""

from loopwright.tracking.artifacts import Artifact, ArtifactStore, Manifest, Origin, current_artifacts
from loopwright.tracking.fingerprint import code_fingerprint, code_hashes, library_versions
from loopwright.tracking.metrics import MetricsLog, read_metrics

__all__ = [
    "Artifact",
    "ArtifactStore",
    "Manifest",
    "MetricsLog",
    "Origin",
    "code_fingerprint",
    "code_hashes",
    "current_artifacts",
    "library_versions",
    "read_metrics",
]
