"""People at an annotation server label what the judge is unsure of, and never see what it said."""

import threading

from loopwright.data.readers import read_records, write_records
from loopwright.feedback.asking import read_sources
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import World, work
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Prompt, is_ai
from loopwright.stages import ai_feedback
from tests.responders.judges import by_worth
from tests.tiny import saved, tiny_model, tiny_tokenizer

JUDGES = {"shortness": lambda prompt, response: 1.0 / (1.0 + len(response))}


def test_their_labels_take_the_place_of_the_judges(tmp_path, office):
    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    prompts = [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(6)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    project, labelers = office.open_project("desk", labelers=1)
    settings = ai_feedback.AIFeedbackConfig(
        prompts=6, sampling={"max_new_tokens": 6}, canaries=0, off_topic_share=1,
        people={"share": 0.5, "control_share": 0.0, "store": office.url, "project": "desk"},
    )  # fmt: skip
    judge = by_worth(lambda text: -0.2 * len(text))
    inputs = ai_feedback.AIFeedbackInputs({"policy-id": policy}, tmp_path / "prompts.jsonl", judge=judge)
    runtime, done = Runtime.temporary(tmp_path / "run"), threading.Event()
    config, world = ProjectConfig(kind="comparison", gold_share=0.0), World.of(prompts, JUDGES)
    people = threading.Thread(
        target=lambda: work(office.url, project, config, labelers, world, stay=lambda: not done.is_set())
    )
    people.start()
    try:
        metrics = ai_feedback.run(settings, inputs, runtime).metrics
    finally:
        done.set()
        people.join()
    labels = read_records(runtime.output / "comparisons.jsonl", Comparison).records
    of_people = [label for label in labels if not is_ai(label.annotator)]
    assert len(of_people) == metrics["labels_of_people"] == metrics["people"]["pairs"] == 3
    assert metrics["labels_of_ai"] == 3 and metrics["people"]["minutes"] > 0
    assert metrics["people"]["minutes_for_all"] is None  # no pair was drawn at random
    assert len({(label.prompt, label.responses) for label in labels}) == 6
    assert {label.policy for label in of_people} == {"policy-id"}
    assert {label.off_topic for label in of_people} == {(1,)}  # told by the item, not seen by them
    assert read_sources(runtime.output)[0].labels == tuple(label.id for label in of_people)
    with office.client() as client:
        items = client._connection.get(f"projects/{project}/items")["items"]
    assert len(items) == 3 and "judge-1" not in str(items) and not any(item["scores"] for item in items)
