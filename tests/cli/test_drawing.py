from made_up import curve, record, sweep


def test_figures_print_their_paths(store, slim):
    sweep(store, "mine", [record(), *curve("wanda")])
    result = slim("figures", "ratio_curve", "--sweep", "mine")
    assert [line.rsplit("/", 1)[-1] for line in result.stdout.split()] == [
        "ratio_curve_wikitext2.pdf",
        "ratio_curve_wikitext2.png",
    ]
