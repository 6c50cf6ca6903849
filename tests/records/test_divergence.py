from made_up import record, with_outcomes

from slimsweep.records.divergence import Loss, base_value, diverged_losses, far_perplexities, lost
from slimsweep.records.quantities import quantity
from slimsweep.records.store import Store

FIELD = "perplexity_wikitext2"


def losses(**training):
    return diverged_losses({"stages": [{"name": "lora", "notes": {"training": training}}]})


def test_a_loss_diverged_if_it_ends_far_above_its_start_or_as_no_number():
    assert losses(loss_start=2.0, loss_end=3.1) == [Loss("lora", 2.0, 3.1)]
    assert losses(loss_start=2.0, loss_end=None) == [Loss("lora", 2.0, None)]
    assert losses(loss_start=2.0, loss_end=3.0) == losses() == []
    assert losses(curve=[{"validation_loss": 2.0}, {"validation_loss": 3.1}]) == [Loss("lora", 2.0, 3.1)]


def test_only_what_was_measured_and_is_no_number_is_lost():
    def reason(text):
        return lost({FIELD: None, "reasons": {FIELD: text}}, FIELD)

    assert reason("not finite: inf") and reason("perplexity overflowed: mean NLL 800.0")
    assert reason("not measured by this evaluation") is None and lost({FIELD: 1.0}, FIELD) is None


def test_the_base_is_read_from_measurements_then_from_its_record(tmp_path):
    store = Store(tmp_path)
    base = with_outcomes(store, record(), FIELD, [10.0])
    pruned = record("wanda", 0.9, base_key=base["key"], identities=base["identities"])
    assert base_value(store, pruned, quantity(FIELD)) == 10.0
    assert base_value(store, pruned | {"identities": {}}, quantity(FIELD)) is None
    store.write(base | {FIELD: 11.0}, [])
    assert base_value(store, pruned | {"identities": {}}, quantity(FIELD)) == 11.0
    assert base_value(store, pruned | {"identities": {}, "protocols": {FIELD: "another"}}, quantity(FIELD)) is None


def test_a_perplexity_over_ten_times_dense_is_far(tmp_path):
    dense = record()
    pruned = record("wanda", 0.9, base_key=dense["key"])
    (far,) = far_perplexities(Store(tmp_path), pruned | {FIELD: 101.0}, [dense])
    assert (far.quantity.field, far.value, far.dense) == (FIELD, 101.0, 10.0)
    assert not far_perplexities(Store(tmp_path), pruned | {FIELD: 100.0}, [dense])
    assert not far_perplexities(Store(tmp_path), pruned | {FIELD: 101.0})
