"""What a cell's values are shown as: every format but charts."""

import base64

import pytest

pytestmark = pytest.mark.plain("what kernels make of code, however it comes")

PNG = b"\x89PNG\r\n"


def test_an_error_comes_without_colours(python):
    error = python.error("def f(): return 1 / 0\nf()")
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    text = "\n".join(error["traceback"])
    assert "\x1b" not in text and "return 1 / 0" in text


def test_input_is_refused(python):
    assert python.error("input()")["ename"] == "StdinNotImplementedError"


def test_long_lists_are_printed_whole(python):
    assert python.text("list(range(3000))").replace("\n", "") == str(list(range(3000)))


def test_lists_and_dictionaries_are_also_json_with_numbers_of_numpy(python):
    data = python.data(
        "import numpy, datetime\n"
        "[1, 'a', None, True, 2.5, (3,), {4: numpy.float64(0.5)}, numpy.arange(2), "
        "numpy.int8(7), float('nan'), datetime.date(2024, 1, 2)]"
    )
    assert data["application/json"] == [
        *(1, "a", None, True, 2.5, [3], {"4": 0.5}, [0, 1], 7, None, "2024-01-02")
    ]
    assert python.data("{'a': [1]}")["application/json"] == {"a": [1]}


def test_what_json_cannot_have_is_shown_without_it(python):
    for code in ("[object()]", "{(1, 2): 3}", "a = []; a.append(a); a"):
        assert list(python.data(code)) == ["text/plain"]


def test_a_data_frame_offers_its_columns(python):
    data = python.data(
        "import pandas, pathlib\n"
        "pandas.DataFrame({'n': [1, 2], 'x': [0.5, None], 's': ['a', 'b'],"
        " 't': pandas.to_datetime(['2024-01-01 00:00', '2024-06-01 12:30']),"
        " 'u': [pandas.NaT, pandas.Timestamp('2024-01-01', tz='UTC')],"
        " 'o': [pathlib.Path('/a'), pandas.NA], 7: [True, False]})"
    )
    assert data["e2b/data"] == {
        "n": [1, 2],
        "x": [0.5, None],
        "s": ["a", "b"],
        "t": ["2024-01-01T00:00:00", "2024-06-01T12:30:00"],
        "u": [None, "2024-01-01T00:00:00+00:00"],
        "o": ["/a", None],
        "7": [True, False],
    }
    assert "<table" in data["text/html"] and data["text/plain"].startswith("   n")


def test_columns_of_the_same_name_and_no_rows_do_no_harm(python):
    assert python.data("pandas.DataFrame([[1, 2]], columns=['a', 'a'])")["e2b/data"] == {"a": [2]}
    assert python.data("pandas.DataFrame({'a': []})")["e2b/data"] == {"a": []}


def test_a_class_may_say_what_its_data_and_chart_are(python):
    data = python.data(
        "class Mine:\n"
        "    def _repr_e2b_data_(self): return {'a': 1}\n"
        "    def _repr_e2b_chart_(self): return {'type': 'line'}\n"
        "    def _repr_html_(self): return '<b>mine</b>'\n"
        "    def _repr_latex_(self): return '$x$'\n"
        "    def __repr__(self): return 'mine'\n"
        "Mine()"
    )
    assert data == {
        "e2b/data": {"a": 1},
        "e2b/chart": {"type": "line"},
        "text/html": "<b>mine</b>",
        "text/latex": "$x$",
        "text/plain": "mine",
    }


def test_a_figure_is_shown_at_the_end_of_its_cell_and_once(python):
    (shown,) = python.run("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])")
    assert shown["kind"] == "display_data"
    assert shown["data"]["text/plain"] == "<Figure size 640x480 with 1 Axes>"
    assert base64.b64decode(shown["data"]["image/png"]).startswith(PNG)
    assert shown["data"]["e2b/chart"]["type"] == "line"
    assert python.run("_ = plt.plot([1]); plt.show(); plt.close('all')")[0]["kind"] == "display_data"


def test_images_that_are_saved_or_shown_are_displayed(python):
    python.run("from PIL import Image; import io; image = Image.new('RGB', (2, 2), 'red')")
    for code in ("image.save('/tmp/red.png')", "image.show()", "display(image)"):
        (shown,) = python.run(code)
        assert shown["kind"] == "display_data", code
        assert base64.b64decode(shown["data"]["image/png"]).startswith(PNG)
    assert python.run("image.save(io.BytesIO(), 'png')") == []
    assert python.printed("import os; print(os.path.getsize('/tmp/red.png') > 0)") == "True\n"


def test_formulas_and_documents_keep_their_own_formats(python):
    assert python.data("import sympy; sympy.Symbol('x') ** 2")["text/latex"] == "$\\displaystyle x^{2}$"
    data = python.data("from IPython.display import Markdown; Markdown('*a*')")
    assert data["text/markdown"] == "*a*"
    data = python.data("from IPython.display import SVG; SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')")
    assert data["image/svg+xml"].startswith("<svg")
