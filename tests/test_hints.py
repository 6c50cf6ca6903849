from slimsweep.hints import allowed_names, did_you_mean, nearest

NAMES = ("wanda", "magnitude", "sparsegpt")


def test_the_nearest_names_come_first_and_far_ones_not_at_all():
    assert nearest("wnda", NAMES) == ["wanda"]
    assert nearest("ratio_curv", ["ratio_zoom", "ratio_curve"]) == ["ratio_curve", "ratio_zoom"]
    assert nearest("qqq", NAMES) == []


def test_a_hint_is_a_sentence_or_nothing():
    assert did_you_mean("wnda", NAMES) == "Did you mean: wanda?"
    assert did_you_mean("ratio_curv", iter(["ratio_zoom", "ratio_curve"])) == (
        "Did you mean: ratio_curve or ratio_zoom?"
    )
    assert did_you_mean("qqq", NAMES) == ""


def test_all_names_follow_in_order():
    assert allowed_names("wnda", NAMES) == "Did you mean: wanda? Allowed: magnitude, sparsegpt, wanda"
    assert allowed_names("qqq", NAMES, "Figures") == "Figures: magnitude, sparsegpt, wanda"
