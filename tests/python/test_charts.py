"""Charts, field by field, in the classes that the SDK has for them: what is expected here is told
from the figures by hand."""

import pytest

charts = pytest.importorskip("e2b_code_interpreter.charts")
pytestmark = pytest.mark.sdk

CLASSES = {
    "line": (charts.LineChart, charts.PointData),
    "scatter": (charts.ScatterChart, charts.PointData),
    "bar": (charts.BarChart, charts.BarData),
    "pie": (charts.PieChart, charts.PieData),
    "box_and_whisker": (charts.BoxAndWhiskerChart, charts.BoxAndWhiskerData),
    "superchart": (charts.SuperChart, charts.Chart),
    "unknown": (charts.Chart, ()),
}

PLAIN = {"x_label": None, "y_label": None, "x_unit": None, "y_unit": None}


def axis(name, ticks, labels, scale="linear"):
    return {f"{name}_ticks": ticks, f"{name}_tick_labels": labels, f"{name}_scale": scale}


LINE = (
    """
plt.plot([1, 2, 3], [10, 20, 15], label="Home")
plt.plot([1, 2, 3], [5, 6, 7])
plt.title("Growth")
plt.xlabel("Time (s)")
plt.ylabel("Size [MB]")
plt.xticks([1, 2, 3])
plt.yticks([0, 10, 20])
plt.grid(True)
""",
    {
        "type": "line",
        "title": "Growth",
        "x_label": "Time (s)",
        "y_label": "Size [MB]",
        "x_unit": "s",
        "y_unit": "MB",
        **axis("x", [1, 2, 3], ["1", "2", "3"]),
        **axis("y", [0, 10, 20], ["0", "10", "20"]),
        "elements": [
            {"label": "Home", "points": [[1, 10], [2, 20], [3, 15]]},
            {"label": "Line 1", "points": [[1, 5], [2, 6], [3, 7]]},
        ],
    },
)

SCATTER = (
    """
plt.scatter([1, 2], [3, 4], label="Dots")
plt.scatter([1.5], [3.5], label="More")
plt.axhline(3, color="red")
plt.xticks([1, 2])
plt.yticks([3, 4])
""",
    {
        "type": "scatter",
        "title": None,
        **PLAIN,
        **axis("x", [1, 2], ["1", "2"]),
        **axis("y", [3, 4], ["3", "4"]),
        "elements": [
            {"label": "Dots", "points": [[1, 3], [2, 4]]},
            {"label": "More", "points": [[1.5, 3.5]]},
        ],
    },
)

BARS = (
    """
plt.bar(["a", "b", "c"], [3, 5, 4])
plt.ylabel("Count (pieces)")
plt.xlabel("Kind")
""",
    {
        "type": "bar",
        "title": None,
        "x_label": "Kind",
        "y_label": "Count (pieces)",
        "x_unit": None,
        "y_unit": "pieces",
        "elements": [
            {"label": "a", "group": "Group 0", "value": 3},
            {"label": "b", "group": "Group 0", "value": 5},
            {"label": "c", "group": "Group 0", "value": 4},
        ],
    },
)

GROUPED_BARS = (
    """
plt.bar([0, 1], [3, 5], width=0.4, label="Men")
plt.bar([0.4, 1.4], [4, 6], width=0.4, label="Women")
plt.xticks([0.2, 1.2], ["North", "South"])
plt.legend()
""",
    {
        "type": "bar",
        "title": None,
        **PLAIN,
        "elements": [
            {"label": "North", "group": "Men", "value": 3},
            {"label": "South", "group": "Men", "value": 5},
            {"label": "North", "group": "Women", "value": 4},
            {"label": "South", "group": "Women", "value": 6},
        ],
    },
)

HORIZONTAL_BARS = (
    """
plt.barh(["a", "b"], [3, 5])
plt.xlabel("Count (pieces)")
plt.ylabel("Kind")
""",
    {**BARS[1], "elements": BARS[1]["elements"][:2]},
)

BOXES = (
    """
plt.boxplot([[1, 2, 3, 4, 5], [2, 4, 6, 8, 9, 30]], patch_artist=True, tick_labels=["x", "y"])
plt.title("Spread")
plt.xlabel("Sample")
plt.ylabel("Weight (kg)")
""",
    {
        "type": "box_and_whisker",
        "title": "Spread",
        "x_label": "Sample",
        "y_label": "Weight (kg)",
        "x_unit": None,
        "y_unit": "kg",
        "elements": [
            {
                **{"label": "x", "min": 1, "first_quartile": 2, "median": 3},
                **{"third_quartile": 4, "max": 5, "outliers": []},
            },
            {
                **{"label": "y", "min": 2, "first_quartile": 4.5, "median": 7},
                **{"third_quartile": 8.75, "max": 9, "outliers": [30]},
            },
        ],
    },
)

# The package takes the names of boxes from the ticks below, however the boxes lie.
HORIZONTAL_BOXES = (
    """
plt.boxplot([[1, 2, 3, 4, 5], [2, 4, 6, 8, 9, 30]], patch_artist=True, orientation="horizontal")
plt.xticks([0, 30], ["x", "y"])
plt.title("Spread")
plt.xlabel("Weight (kg)")
plt.ylabel("Sample")
""",
    BOXES[1],
)

PIE = (
    """
plt.pie([1, 3], labels=["one", "three"], radius=1.5)
plt.title("Shares")
""",
    {
        "type": "pie",
        "title": "Shares",
        "elements": [
            {"label": "one", "angle": 90, "radius": 1.5},
            {"label": "three", "angle": 270, "radius": 1.5},
        ],
    },
)

LOG = (
    """
plt.plot([1, 10, 100], [1, 2, 3], label="a")
plt.xscale("log")
plt.yscale("symlog")
plt.xticks([1, 10, 100], ["one", "ten", "hundred"])
plt.yticks([1, 2], ["low", "high"])
""",
    {
        "type": "line",
        "title": None,
        **PLAIN,
        **axis("x", [1, 10, 100], ["one", "ten", "hundred"], "log"),
        **axis("y", [1, 2], ["low", "high"], "symlog"),
        "elements": [{"label": "a", "points": [[1, 1], [10, 2], [100, 3]]}],
    },
)

DATES = (
    """
import datetime
days = [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]
plt.plot(days, [1, 2], label="a")
plt.xticks(days, ["Mon", "Tue"])
plt.yticks([1, 2])
""",
    {
        "type": "line",
        "title": None,
        **PLAIN,
        **axis(
            "x",
            ["2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00"],
            ["Mon", "Tue"],
            "datetime",
        ),
        **axis("y", [1, 2], ["1", "2"]),
        "elements": [{"label": "a", "points": [["2024-01-01", 1], ["2024-01-02", 2]]}],
    },
)

CATEGORIES = (
    """
plt.plot(["low", "high"], [1, 2], label="a")
plt.yticks([1, 2])
""",
    {
        "type": "line",
        "title": None,
        **PLAIN,
        **axis("x", [0, 1], ["low", "high"], "categorical"),
        **axis("y", [1, 2], ["1", "2"]),
        "elements": [{"label": "a", "points": [["low", 1], ["high", 2]]}],
    },
)

SUPERCHART = (
    """
figure, (left, right) = plt.subplots(1, 2)
figure.suptitle("Both")
left.pie([1, 1], labels=["a", "b"])
right.bar(["a", "b"], [1, 2])
right.set_title("Right")
""",
    {
        "type": "superchart",
        "title": "Both",
        "elements": [
            {
                "type": "pie",
                "title": None,
                "elements": [
                    {"label": "a", "angle": 180, "radius": 1},
                    {"label": "b", "angle": 180, "radius": 1},
                ],
            },
            {
                "type": "bar",
                "title": "Right",
                **PLAIN,
                "elements": [
                    {"label": "a", "group": "Group 0", "value": 1},
                    {"label": "b", "group": "Group 0", "value": 2},
                ],
            },
        ],
    },
)

UNKNOWN = (
    'plt.imshow([[1, 2], [3, 4]])\nplt.title("Pixels")',
    {"type": "unknown", "title": "Pixels", "elements": []},
)

ALL_KINDS = (LINE, SCATTER, GROUPED_BARS, BOXES, PIE, UNKNOWN)
EVERYTHING = (
    "\n".join(f"plt.subplot(2, 3, {place})\n{one}" for place, (one, _) in enumerate(ALL_KINDS, 1)),
    {"type": "superchart", "title": "", "elements": [chart for _, chart in ALL_KINDS]},
)

# No figure is drawn so; a class of the user's may say so.
NESTED = (
    f"""
class Mine:
    def _repr_e2b_chart_(self):
        pie = {PIE[1]}
        inner = {{"type": "superchart", "title": "Inner", "elements": [pie, pie]}}
        return {{"type": "superchart", "title": "Outer", "elements": [inner, pie]}}
display(Mine())
""",
    {
        "type": "superchart",
        "title": "Outer",
        "elements": [
            {"type": "superchart", "title": "Inner", "elements": [PIE[1], PIE[1]]},
            PIE[1],
        ],
    },
)


def fields(chart):
    """All that an object of the SDK says, as it was sent."""
    told = {name: value for name, value in vars(chart).items() if not name.startswith("_")}
    if "points" in told:
        told["points"] = [list(point) for point in told["points"]]
    if "elements" in told:
        of_chart, of_element = CLASSES[told["type"]]
        assert type(chart) is of_chart
        assert all(isinstance(element, of_element) for element in told["elements"])
        told["elements"] = [fields(element) for element in told["elements"]]
    return told


@pytest.mark.parametrize(
    "drawing, chart",
    [
        pytest.param(*globals()[name], id=name.lower().replace("_", "-"))
        for name in (
            *("LINE", "SCATTER", "BARS", "GROUPED_BARS", "HORIZONTAL_BARS", "BOXES", "PIE"),
            *("HORIZONTAL_BOXES", "LOG", "DATES", "CATEGORIES", "SUPERCHART", "UNKNOWN"),
            *("EVERYTHING", "NESTED"),
        )
    ],
)
def test_a_figure_is_told_as_a_chart(interpreter, drawing, chart):
    execution = interpreter.run_code(f"import matplotlib.pyplot as plt\n{drawing}\nplt.show()")
    assert execution.error is None, execution.error
    (shown,) = execution.results
    assert fields(shown.chart) == chart == shown.chart.to_dict()


@pytest.mark.parametrize(
    "scale",
    ["'logit'", "'asinh'", "'function', functions=both", "'functionlog', functions=both"],
)
def test_a_scale_has_its_name(interpreter, scale):
    drawing = f"plt.plot([0.1, 0.5, 0.9], [1, 2, 3])\nplt.xscale({scale})\nplt.show()"
    both = "both = (lambda x: x, lambda x: x)"
    execution = interpreter.run_code(f"import matplotlib.pyplot as plt\n{both}\n{drawing}")
    chart = execution.results[0].chart
    assert (chart.x_scale, chart.y_scale) == (scale.split("'")[1], "linear")


def test_a_figure_without_a_chart_is_a_picture(interpreter):
    blank = "import matplotlib.pyplot as plt\n_ = plt.subplots()"
    # It has neither whiskers nor caps.
    box = "plt.boxplot([[1, 2, 3]], patch_artist=True, showcaps=False, whis=0); plt.show()"
    for drawing in (blank, box):
        (shown,) = interpreter.run_code(drawing).results
        assert shown.png and shown.chart is None


def test_nothing_is_warned_of(interpreter):
    drawing = "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show()"
    assert interpreter.run_code(drawing).logs.stderr == []
