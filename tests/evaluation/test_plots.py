import xml.etree.ElementTree as ET

import pytest

from loopwright.evaluation.plots import BOTTOM, LEFT, RIGHT, SMALL, TOP, WIDE, Measure, as_svg, frontier, over_versions
from tests.evaluation.fake_run import HOSTILE


def between(low: float, mean: float, high: float) -> dict:
    return {"mean": mean, "low": low, "high": high}


def test_points_stand_over_their_versions_with_their_intervals():
    values = [between(0.0, 0.0, 0.0), None, between(0.25, 0.5, 1.0)]
    plot = over_versions("t", {"gold": values, "single": [values[0], None, None]}, ["Base", "SFT", "V1"])
    assert [curve.label for curve in plot.curves] == ["gold"] and plot.legend == []
    first, last = plot.dots
    top, bottom = TOP, SMALL[1] - BOTTOM
    assert first.at[1] == first.low == bottom  # 0 is the lowest tick, 1 the highest
    assert (last.at[1], last.high) == ((top + bottom) / 2, top)
    assert [first.at[0], last.at[0]] == [plot.x_ticks[0].at, plot.x_ticks[2].at]
    assert plot.curves[0].path == f"M{first.at[0]:g} {first.at[1]:g}L{last.at[0]:g} {last.at[1]:g}"
    assert over_versions("t", {"gold": values[:2]}, ["Base", "SFT"]) is None


def test_labels_under_an_axis_do_not_run_into_each_other():
    one = between(0, 0.5, 1)
    plot = over_versions("t", {"gold": [one] * 12}, ["REINFORCE++"] * 12)
    assert all(len(tick.label) <= 4 and tick.label.endswith("…") for tick in plot.x_ticks)


def test_the_frontier_places_points_by_kl_and_worth():
    measures = [Measure("SFT", 0.0, 0.0, 0.0, 0.0), Measure("PPO", 4.0, 1.0, 0.5, 1.0)]
    plot = frontier(measures, [(0.0, 0.0), (2.0, 0.5), (6.0, 0.7)], title="t")
    sft, ppo = plot.dots
    left, right = LEFT, WIDE[0] - RIGHT
    assert sft.at == (left, WIDE[1] - BOTTOM) and ppo.at == (right, TOP)
    assert ppo.low == (TOP + WIDE[1] - BOTTOM) / 2 and ppo.high == TOP
    # The curve ends where the points do: half of its last piece.
    assert plot.curves[0].path.split("L")[-1] == f"{right:g} {WIDE[1] - BOTTOM - 0.6 * (WIDE[1] - BOTTOM - TOP):g}"


def test_without_best_of_n_there_is_no_curve_and_without_points_no_chart():
    assert frontier([Measure("SFT", 0.0, 0.5, 0.4, 0.6)], [], title="t").curves == []
    assert frontier([], [(0.0, 0.5)], title="t") is None
    assert frontier([Measure("x", float("nan"), 0.5, 0.4, 0.6)], [], title="t") is None


def test_labels_of_near_points_keep_clear_of_each_other():
    plot = frontier([Measure(f"way {i}", 1.0 + 0.01 * i, 0.5, 0.4, 0.6) for i in range(4)], [], title="t")
    assert len({(dot.label_at, dot.anchor) for dot in plot.dots}) == 4
    heights = [dot.label_at[1] for dot in plot.dots if dot.anchor == "start"]
    assert len(set(heights)) == len(heights)


def test_the_order_of_points_moves_none():
    measures = [Measure("a", 1.0, 0.2, 0.1, 0.3), Measure("b", 2.0, 0.4, 0.3, 0.5), Measure("c", 0.5, 0.1, 0.0, 0.2)]
    places = [
        {dot.label: (dot.at, dot.low, dot.high) for dot in frontier(given, [], title="t").dots}
        for given in (measures, measures[::-1])
    ]
    assert places[0] == places[1]


def test_a_file_of_its_own_is_whole_and_hostile_labels_stay_text():
    plot = frontier([Measure(HOSTILE, 1.0, 0.5, 0.4, 0.6)], [(0.0, 0.1), (2.0, 0.6)], title=HOSTILE)
    root = ET.fromstring(as_svg(plot))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "style", "title", "text", "g", "line", "circle", "path"}
    assert [element.text for element in root.iter() if element.tag.endswith("title")][0] == HOSTILE
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1000.0, "1000"), (1354.2, "1354"), (0.25, "0.25"), (12000.0, "12k"), (7.5e-4, "7.5e-4"), (-5e-4, "-5e-4")],
)
def test_numbers_of_axes_are_written_out(value, text):
    from loopwright.evaluation.charts import short

    assert short(value) == text
