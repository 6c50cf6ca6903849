import pandas as pd

from slimsweep.records.frame import as_frame, dtype_of


def test_each_field_has_one_dtype_and_nulls_stay_nulls():
    frame = as_frame([{"a": 1, "b": 0.5, "c": "x", "d": True, "e": [1]}, {"a": None, "b": 2, "f": {"g": 1}}])
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert kinds == {"a": "Int64", "b": "float64", "c": "str", "d": "boolean", "e": "object", "f": "object"}
    assert frame["a"][1] is pd.NA and frame["b"][1] == 2.0 and frame["f"][1] == {"g": 1}


def test_a_field_of_nulls_alone_is_an_object():
    assert dtype_of([None, None]) == "object" and as_frame([]).empty
