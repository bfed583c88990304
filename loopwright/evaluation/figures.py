"""How the report writes numbers and names."""

from typing import Any

from loopwright.evaluation.results import IS_ROUND, STARTS
from loopwright.evaluation.run_files import is_number

ABSENT = "–"
LABELS = {"base": "Base", "sft": "SFT", "sft_clean": "SFT, clean writers only", "ppo": "PPO"} | {
    "constitutional": "Constitutional AI", "rejection": "Rejection sampling", "rest": "ReST", "hindsight": "HIR",
    "conditioned": "Reward-conditioned", "dpo": "DPO", "kto": "KTO", "rloo": "RLOO", "grpo": "GRPO",
    "reinforce_plus_plus": "REINFORCE++",
}  # fmt: skip


def label_of(version: str) -> str:
    """What a version is called; that of a round by its number."""
    return LABELS.get(version, version.upper() if IS_ROUND.fullmatch(version) else version)


def style_of(version: str) -> str:
    """The class of the style sheet that colours a version; what feedback improved shares one."""
    return version if version in STARTS else "ppo"


def figure(value: Any, digits: int = 2) -> str:
    """A number with a true minus sign, or a dash where there is none. An interval is written by its mean."""
    if isinstance(value, dict):
        value = value.get("mean")
    if not is_number(value):
        return ABSENT if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if 1e-3 <= abs(value) < 10.0**-digits / 2:  # 0.003 says more than 0.00; 8e-05 does not
        return f"{value:.1g}".replace("-", "−")
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 0) -> str:
    """A share as a percentage; no line breaks before its sign."""
    if isinstance(value, dict):
        value = value.get("mean")
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "−") if is_number(value) else ABSENT


def change(value: float) -> str:
    """A relative change with its sign: 1.034 is +3.4 %."""
    return f"{100 * (value - 1):+.1f}\N{NO-BREAK SPACE}%".replace("-", "−")


def duration(seconds: Any) -> str:
    """Time for a person: 41 s, 2 min 05 s, 1 h 12 min."""
    if not is_number(seconds):
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def place(value: float) -> str:
    """A score in [0, 1] as a position along a track."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"
