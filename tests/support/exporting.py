"""Writing small models in a format without the new process, for tests of formats."""

from pathlib import Path

from slimsweep.export.base import Content, Format, Sample
from slimsweep.export.sample import sample_of


def record_of(**fields):
    """A record with no more than a model card reads."""
    fields = {"model": "tiny", "technique": "glu", "key": "a" * 64, "dtype": "float32", "seed": None} | fields
    return {"stages": [], "config": {"model": {}}, "versions": {}, "protocols": {}, "quantities": {}} | fields


def written(format: Format, model, folder: Path) -> Sample:
    """Write a model; returns the sample to verify by."""
    folder.mkdir()
    sample = sample_of(model)
    format.write(Content(model=model, record=record_of(), calibration=dict), folder)
    return sample
