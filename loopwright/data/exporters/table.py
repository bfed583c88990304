"""The formats that can be written."""

from loopwright.data.exporters.alpaca_eval import ALPACA_EVAL
from loopwright.data.exporters.arena import ARENA
from loopwright.data.exporters.base import Exporter
from loopwright.data.exporters.flat import CSV, PARQUET
from loopwright.data.exporters.helpsteer import HELPSTEER
from loopwright.data.exporters.hh_rlhf import HH_RLHF
from loopwright.data.exporters.label_studio import LABEL_STUDIO
from loopwright.data.exporters.own import LOOPWRIGHT
from loopwright.data.exporters.summarize import SUMMARIZE
from loopwright.data.exporters.trl import PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY, UNPAIRED
from loopwright.data.exporters.ultrafeedback import ULTRAFEEDBACK

EXPORTERS: dict[str, Exporter] = {
    "alpaca-eval": ALPACA_EVAL,
    "arena": ARENA,
    "csv": CSV,
    "helpsteer": HELPSTEER,
    "hh-rlhf": HH_RLHF,
    "label-studio": LABEL_STUDIO,
    "loopwright": LOOPWRIGHT,
    "parquet": PARQUET,
    "summarize-from-feedback": SUMMARIZE,
    "trl-preference": PREFERENCE,
    "trl-prompt-completion": PROMPT_COMPLETION,
    "trl-prompt-only": PROMPT_ONLY,
    "trl-unpaired": UNPAIRED,
    "ultrafeedback": ULTRAFEEDBACK,
}
