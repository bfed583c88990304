"""The settings of the reward stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from loopwright.feedback.pairs import JudgementConfig
from loopwright.generation.base import SamplingConfig
from loopwright.stages.base import StageConfig
from loopwright.training.config import Fraction, TrainConfig
from loopwright.training.label_model import AnnotatorConfig, Covariate

Share = Annotated[float, Field(ge=0, le=1)]
Kind = Literal["comparisons", "rankings", "ratings", "thumbs", "corrections", "attacks", "spans"]

ANSWERS_ONLY = {
    "judgements", "annotators", "covariates", "teacher", "centering", "normalise_on", "reference_samples", "sampling",
    "held_out", "average_of", "eval_steps", "learning_curve", "cut", "heads", "part_of_prompts", "dropout",
    "fresh_samples",
}  # fmt: skip


class RewardConfig(TrainConfig, StageConfig):
    """The `reward` section of a recipe. A row of a batch is a prompt with all its pairs."""

    epochs: PositiveFloat | None = 1.0  # more overfit
    batch_size_per_device: PositiveInt = 16
    heads: PositiveInt = 1  # on one body, each with a bootstrap of the prompts; the score is their mean
    average_of: PositiveInt = 1  # trainings in different orders, of whose weights the mean is taken
    model: Path | None = None  # a causal LM's or encoder's folder to start from, where no stage makes one
    comparisons: Path | None = None  # jsonl of Comparison, where no stage collects feedback
    feedback: Path | None = None  # or a folder with the files of several kinds, as importing makes it
    kinds: tuple[Kind, ...] = ("comparisons", "rankings")  # which of them, or of the feedback stage's
    part_of_prompts: tuple[Share, Share] | None = None  # from where to where in [0, 1), by hash; None: all
    earlier_rounds_weight: Annotated[float, Field(gt=0, le=1)] = 1.0  # of labels, for each round since they were given
    judgements: JudgementConfig = JudgementConfig()
    annotators: AnnotatorConfig | None = None  # learn how reliable each is; None: all are alike
    covariates: tuple[Covariate, ...] = ()  # what shifts labels without being worth anything
    label_learning_rate: PositiveFloat = 0.05  # of annotators, covariates and ties, which are no weights
    span_labels: tuple[str, ...] | None = None  # of the passages that count as marked; None: all
    fresh_samples: bool = False  # where answers were only called bad, compare them with the policy's own
    teacher: Path | None = None  # a reward model's folder: its scores in place of what people said
    labelled: Path | None = None  # sentence<TAB>0/1, in place of comparisons: those with 1 are preferred
    labelled_as: Literal["pairs", "thumbs"] = "pairs"  # compared with each other, or each by itself
    pairs_per_sentence: PositiveInt = 2  # of the other label, at least; drawn from the seed
    held_out: Path | None = None  # jsonl of Comparison to assess on; None: a share of the prompts
    held_out_labelled: Path | None = None  # as labelled, to assess on
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    learning_curve: Annotated[int, Field(ge=2)] | None = None  # sizes of it: all prompts, half of them, a quarter, ...
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    cut: Literal["prompt", "response"] | None = None  # what goes of rows too long for an encoder; None: left out
    dropout: Fraction = 0.0  # of an encoder, while it is trained
    append_eos: bool = True  # false where the scored responses are cut off before they end
    centering: NonNegativeFloat = 0.01  # of the squared sum of a pair's scores: keeps their mean near 0
    normalise_on: Literal["policy", "responses"] | None = None  # None: policy where there are prompts
    reference_samples: PositiveInt = 256
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=40)  # of the reference samples

    @model_validator(mode="after")
    def _written_settings_have_an_effect(self) -> Self:
        if self.held_out is not None and "held_out_share" in self.model_fields_set:
            raise ValueError("held_out_share has no effect with held_out; leave one out")
        for name in ("eval_steps", "learning_curve"):
            if getattr(self, name) and not (self.held_out_share or self.held_out or self.held_out_labelled):
                raise ValueError(f"{name} has no effect with held_out_share = 0; hold some out, or leave it out")
        if self.normalise_on == "responses" and "sampling" in self.model_fields_set and not self.fresh_samples:
            raise ValueError("sampling has no effect with normalise_on = responses; leave one out")
        return self

    @model_validator(mode="after")
    def _labels_are_instead_of_comparisons(self) -> Self:
        if self.labelled is None:
            for name in sorted({"pairs_per_sentence", "held_out_labelled", "labelled_as"} & self.model_fields_set):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without labelled; set labelled or leave it out")
            return self
        if self.labelled_as == "thumbs" and "pairs_per_sentence" in self.model_fields_set:
            raise ValueError("pairs_per_sentence has no effect with labelled_as = thumbs; leave it out")
        for name in ("comparisons", "feedback", "held_out", "part_of_prompts"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} contradicts labelled, which makes its own comparisons; leave one out")
        for name, written in (("fresh_samples", self.fresh_samples), ("sampling", "sampling" in self.model_fields_set)):
            if written:
                raise ValueError(f"{name} has no effect with labelled, which brings no prompts; leave one out")
        if self.normalise_on == "policy":
            raise ValueError("normalise_on = policy contradicts labelled, which brings no prompts; set it to responses")
        if self.held_out_labelled is not None and "held_out_share" in self.model_fields_set:
            raise ValueError("held_out_share has no effect with held_out_labelled; leave one out")
        return self

    @model_validator(mode="after")
    def _a_part_is_one(self) -> Self:
        if self.part_of_prompts is not None and self.part_of_prompts[0] >= self.part_of_prompts[1]:
            start, end = self.part_of_prompts
            raise ValueError(f"part_of_prompts = [{start:g}, {end:g}] holds nothing; write where it starts and ends")
        return self

    @model_validator(mode="after")
    def _judgements_come_from_one_place(self) -> Self:
        if self.comparisons is not None and self.feedback is not None:
            raise ValueError("comparisons and feedback both say where judgements are; leave one out")
        if "kinds" in self.model_fields_set and (self.comparisons is not None or self.labelled is not None):
            raise ValueError("kinds has no effect with comparisons or labelled, which are of one kind; leave it out")
        return self

    @model_validator(mode="after")
    def _spans_stand_alone(self) -> Self:
        if "spans" not in self.kinds:
            if self.span_labels is not None:
                raise ValueError("span_labels has no effect without kinds = [spans]; leave it out")
            return self
        if len(self.kinds) > 1:
            raise ValueError("spans make a model of tokens, the other kinds one of answers; train them in two stages")
        for name in sorted(ANSWERS_ONLY & self.model_fields_set):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on marked passages; leave it out")
        return self

    @model_validator(mode="after")
    def _something_is_learned_of_labels(self) -> Self:
        learned = self.annotators is not None or self.covariates or self.judgements.ties == "davidson"
        if "label_learning_rate" in self.model_fields_set and not learned:
            raise ValueError("label_learning_rate has no effect without annotators, covariates or ties = davidson")
        if self.teacher is not None:
            for name in ("annotators", "covariates", "judgements", "labelled", "fresh_samples"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with teacher, whose scores are the labels; leave one out")
        return self
