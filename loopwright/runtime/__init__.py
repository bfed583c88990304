"""What a stage may ask of the process it runs in: seeds, checkpoints, figures, progress."""

from loopwright.runtime.checkpoints import Checkpoint
from loopwright.runtime.display import Display, Progress, Quiet
from loopwright.runtime.runtime import Runtime

__all__ = ["Checkpoint", "Display", "Progress", "Quiet", "Runtime"]
