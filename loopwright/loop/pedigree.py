"""Tell feedback stores what became of their labels: every artifact of a run that was made from some, and its parents.

The stores never stop a run: where one is away the run says so, and tells it at its next start.
"""

from collections.abc import Mapping, Sequence

from loopwright.errors import LoopwrightError
from loopwright.feedback.asking import Source, read_sources
from loopwright.feedback.client import FeedbackClient
from loopwright.runtime.display import Display
from loopwright.tracking.artifacts import Artifact

ATTEMPTS, TIMEOUT_SECONDS = 2, 10.0


class Pedigree:
    """What the stores of one run have been told."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._told: set[tuple[str, str]] = set()  # project's id, artifact's id
        self._away: set[str] = set()  # URLs

    def tell(self, made: Mapping[str, Artifact]) -> None:
        """Register the artifacts made so far with every store whose labels are among them."""
        sources = {artifact.id: read_sources(artifact.path) for artifact in made.values()}
        for source in (one for found in sources.values() for one in found):
            if source.store not in self._away:
                try:
                    self._tell(source, made, sources)
                except LoopwrightError as error:
                    self._away.add(source.store)
                    self._display.log(f"warning: {error}; the next run tells the store what was made of its labels")

    def _tell(self, source: Source, made: Mapping[str, Artifact], sources: Mapping[str, Sequence[Source]]) -> None:
        new = [one for one in made.values() if (source.project_id, one.id) not in self._told]
        if not new:
            return
        with FeedbackClient(source.store, attempts=ATTEMPTS, timeout_seconds=TIMEOUT_SECONDS) as client:
            for artifact in new:
                own = sources.get(artifact.id, ())
                parents = dict(artifact.manifest.parents)
                for policy in (one.policy for one in own if one.policy is not None):  # also where another run made it
                    parents["policy"] = policy
                client.register(
                    source.project_id,
                    artifact.id,
                    artifact.manifest.kind,
                    parents,
                    labels=[label for one in own if one.project_id == source.project_id for label in one.labels],
                    where=f"{artifact.manifest.name}/{artifact.path.name}",
                )
                self._told.add((source.project_id, artifact.id))
