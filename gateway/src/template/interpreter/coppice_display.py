"""What a cell's values are shown as, beyond what IPython does by itself.

An IPython extension: figures are also offered as `e2b/chart`, data frames as `e2b/data`, lists and
dictionaries as JSON, and images that are saved or shown are displayed. It imports none of the
libraries it knows about: a kernel that never uses them does not wait for them.
"""

import datetime
import json
import math
import os
import sys
import warnings
from importlib.machinery import PathFinder

from IPython.core.formatters import BaseFormatter, JSONFormatter
from traitlets import ObjectName, Unicode


def load_ipython_extension(shell):
    display = shell.display_formatter
    for kind in (DataFormatter, ChartFormatter, ListFormatter):
        formatter = kind(parent=display)
        display.formatters[formatter.format_type] = formatter
    sys.meta_path.insert(0, AfterImport({"PIL.Image": patch_image, "PIL.ImageShow": patch_show}))


class DataFormatter(BaseFormatter):
    """A data frame as {column: [values]}, and what has `_repr_e2b_data_`."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)

    def __call__(self, obj):
        pandas = sys.modules.get("pandas")
        if isinstance(obj, getattr(pandas, "DataFrame", ())):
            return columns(obj)
        return super().__call__(obj)


class ChartFormatter(BaseFormatter):
    """A figure as the data it was drawn from, and what has `_repr_e2b_chart_`."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, obj):
        # Not by a table of types: matplotlib's inline backend takes figures out of every formatter.
        figure = sys.modules.get("matplotlib.figure")
        if isinstance(obj, getattr(figure, "Figure", ())):
            return chart(obj)
        return super().__call__(obj)


class ListFormatter(JSONFormatter):
    """Lists and dictionaries as JSON where they can be; numpy's numbers and arrays are fine."""

    def __call__(self, obj):
        if isinstance(obj, (list, dict)):
            try:
                return json_value(obj), {"expanded": True}
            except (TypeError, ValueError, RecursionError):
                return None
        return super().__call__(obj)


def chart(figure):
    """None where the figure is of no kind that can be told."""
    try:
        from e2b_charts import chart_figure_to_dict

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Numbers come as numpy's, kinds as members of an enumeration.
            return json_value(chart_figure_to_dict(figure))
    except Exception:
        return None


def columns(frame):
    """Whatever JSON has no word for goes as text, so that a frame can always be shown."""
    return {
        str(name): [cell(value) for value in frame.iloc[:, index].tolist()]
        for index, name in enumerate(frame.columns)
    }


def cell(value):
    try:
        return json_value(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def json_value(value):
    """`value` as JSON can have it, or TypeError; what is not a number (NaN, NaT) is null."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {json_key(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        # pandas' NaT is a date that is not equal to itself.
        return value.isoformat() if value == value else None
    numpy = sys.modules.get("numpy")
    if isinstance(value, getattr(numpy, "datetime64", ())):
        return None if numpy.isnat(value) else str(value)
    if isinstance(value, (getattr(numpy, "generic", ()), getattr(numpy, "ndarray", ()))):
        return json_value(value.tolist())
    if value is getattr(sys.modules.get("pandas"), "NA", ...):
        return None
    raise TypeError(f"no JSON for {type(value)}")


def json_key(key):
    if isinstance(key, str):
        return key
    return next(iter(json.loads(json.dumps({key: None}))))


class AfterImport:
    """Calls a function with a module right after its first import."""

    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path, target=None):
        patch = self.patches.get(name)
        spec = patch and PathFinder.find_spec(name, path, target)
        if not spec or not spec.loader:
            return None
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


def patch_image(module):
    """Saving an image to a file also displays it."""
    save = module.Image.save

    def save_and_display(self, fp, format=None, **params):
        save(self, fp, format, **params)
        if isinstance(fp, (str, os.PathLike)):
            from IPython.display import display

            display(self)

    module.Image.save = save_and_display


def patch_show(module):
    """Showing an image displays it, whatever viewers there are."""
    module.register(module.IPythonViewer(), order=0)
