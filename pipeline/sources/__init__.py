"""Where the three CSVs come from: one module a source.

Each has `fetch(folder, path)`, which leaves train.csv, test.csv and sample_submission.csv in
`folder` (and solution.csv, `ImageId,Label`, where KNOWS_ANSWERS is true) and returns facts for the
manifest; CODE, the files of this package of which it is made; and CLASS_NAMES, where the classes
are not the digits.
"""

from types import ModuleType

from pipeline.sources import fashion, kaggle, local, mnist, sample

# Those that DATASET= names; `local` is chosen by giving a path.
NAMED = ("kaggle", "sample", "mnist", "fashion")
SOURCES: dict[str, ModuleType] = {
    "kaggle": kaggle,
    "sample": sample,
    "mnist": mnist,
    "fashion": fashion,
    "local": local,
}


def class_names(source: str) -> tuple[str, ...]:
    """What a source's ten classes are called."""
    return getattr(SOURCES[source], "CLASS_NAMES", tuple("0123456789"))
