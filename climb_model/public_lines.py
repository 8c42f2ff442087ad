"""The lines by which this program says, outside a site, why something failed there: all of them.

A line in a site's name could hold anything. What fits none of these forms stays at the site.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection
from string import Formatter

from climb_model.notices import NUMBER

WITHHELD = "refused; its own log says more"
"""In the place of a line that is not this program's."""

_CSV = (
    "unexpected end of data",
    "line contains NUL",
    "field larger than field limit (131072)",
    "',' expected after '\"'",
    "';' expected after '\"'",
    "new-line character seen in unquoted field - do you need to open the file in universal-newline mode?",
)
_REASONS = (
    "no folder below data_unilateral",
    "no row in the split table",
    "no patient in the tables",
    "UID does not end in _left or _right",
    "no sequence file",
    "no report",
    "no row in the findings table",
    "Fold, Age or Lesion is not a whole number",
)
_TABLES = (
    "annotation.csv",
    "split.csv",
    "reports.csv",
    "findings.csv",
    "split_regex.csv",
    "mrt-befund.csv",
)
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
)
_COLUMNS = ("UID", "PatientID", "Split", "Fold", "Age", "Lesion", "Report", "AnforderungsNr")
_MORE_COLUMNS = ("UntersuchungsNr", "Linke Mamma", "Rechte Mamma")
_ERRORS = (
    *(
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
    *("OutOfMemoryError", "JSONDecodeError", "SafetensorError", "LinAlgError", "UnpicklingError"),
    *("ProcessExitedException", "ProcessRaisedException", "BadGzipFile", "BadZipFile", "DistBackendError"),
    *("HfHubHTTPError", "LocalEntryNotFoundError", "ConnectionError", "GzipError", "NiftiError"),
)


def _any_of(*texts: str) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(set(texts), key=len, reverse=True)))})"


_PIECES = {
    "n": NUMBER,
    "x": r"(?:-?(?:[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?|inf)|nan)",
    "shape": r"\((?:[0-9]{1,9}(?:, [0-9]{1,9}){0,7},?)?\)",
    "dtype": r"torch\.[a-z]{1,10}[0-9]{0,2}",
    "table": _any_of(*_TABLES),
    "column": rf"(?:{_any_of(*_COLUMNS, *_MORE_COLUMNS)}|(?P<sent_%d>.{{1,200}}?))",
    "sent": r"(?P<sent_%d>.{1,200}?)",
    "split": "(?:train|val|test)",
    "csv": _any_of(*_CSV),
    "files": rf"{_any_of(*_FILES)}(?:, {_any_of(*_FILES)}){{0,4}}",
    "reasons": rf"(?:none|{NUMBER} x {_any_of(*_REASONS)}(?:, {NUMBER} x {_any_of(*_REASONS)}){{0,9}})",
    "error": _any_of(*_ERRORS),
}
"""What may stand in a line. `sent` is what the coordinator itself sent: a name out of the settings."""

FORMS = (
    "failed with {error}; its own log says more",
    "is not set up as it should be; its own log says how",
    WITHHELD,
    # exams
    "{n} patients or more with a report wanted, got {n}",
    "has no usable exam in split '{split}'",
    "no exam in split '{split}'; left out: {reasons}",
    "{x}% of {n} report tokens are unknown to the tokenizer of '{sent}', at most {x}% wanted",
    "data folder is missing",
    "no site: neither the data folder nor a folder in it holds data_unilateral/",
    "data folder holds {n} sites: name one",
    "folder is missing",
    "folder data_unilateral/ is missing",
    "two layouts at once: metadata_unilateral/ (ODELIA) and metadata/split_regex.csv (UKA)",
    "unknown layout: neither metadata_unilateral/ (ODELIA) nor metadata/split_regex.csv (UKA)",
    "table {table} is missing",
    "{table} is not UTF-8, first at byte {n}",
    "{table} is empty",
    "{table} line {n} has {n} cells, its header has {n}",
    "{table} line {n}: {csv}",
    "{table} has column '{column}' {n} times",
    "{table} has no column '{column}'",
    "{table} has a row without {column}",
    "{table} lists {n} UID twice",
    "{table} lists {n} UIDs twice",
    "{table} has a Split that is not train, val or test",
    "{table} has {n} UID in two splits",
    "{table} has {n} UIDs in two splits",
    "{table} has no Fold {n}",
    "{table} has a cell of '{sent}' that is not 0, 1 or empty",
    "{table}: rows without AnforderungsNr or UntersuchungsNr: {n}",
    "{n} patient in two splits",
    "{n} patients in two splits",
    "the token store is not readable",
    "the token store belongs to another site",
    # frozen models
    "weights of '{sent}' are missing",
    "weights of '{sent}' lack {files}",
    "weights of '{sent}' need a licence and a login",
    "weights of '{sent}' cannot be loaded",
    "weights of '{sent}' are incomplete",
    "weights of '{sent}' have another width",
    "weights of '{sent}' are of another type than a BERT or a causal language model",
    "weights of '{sent}' name no end of a text",
    "tokenizer and weights of '{sent}' do not belong together",
    "the tokenizer of '{sent}' does not know the prompts",
    "the tokenizer of '{sent}' lacks the signs around a text",
    "model.text.max_tokens leaves too little room for the prompts",
    "'{sent}' has too few positions for the slices",
    "'{sent}' has no encoder",
    # what the coordinator sent
    "the server did not send '{sent}', which is shared",
    "the server sent '{sent}', which is not shared",
    "the server sent '{sent}' with shape {shape}, expected {shape}",
    "the server sent '{sent}' as {dtype}, expected {dtype}",
    "the server sent '{sent}' with values that are not finite",
    "the server asked for round {n}, expected 1 to {n}",
    # training
    "loss {x} and gradient norm {x} at round {n}, step {n}; wanted finite numbers",
    "memory ran out with {n} of {n} exams at once; set training.chunk_size={n} (in a federation the site's "
    "own chunk-size={n}): the same gradients in about a quarter of it",
    "memory ran out with {n} of {n} exams at once; one exam at a time is too much for it: a larger device is "
    "wanted, or fewer slices",
    "a batch of {n} exams cannot be shared by {n} devices",
    "'{sent}' changed by values beyond {x} or not finite, which float16 cannot hold; wanted: "
    "federation.payload=float32",
    "another process ({n}) works with the exams",
    "its GPU is needed for other work: {n} MiB are free, this site lends it from {n} MiB on",
    # what the site does not want
    "does not take part: model.generators.kind=reused shares the weights that write reports, and this site's "
    "policy (shared-generators) does not allow it",
    "sets its own chunk-size, which model.fusion.dropout={x} does not allow: dropout is drawn part by part",
)
"""All of them, after the site's name. A line about impossible settings repeats what was sent: whoever judges
it makes that line anew and compares."""


def is_public(line: str, sent: Collection[str] = ()) -> bool:
    """Whether a line is one of this program's.

    Args:
        line: without the site's name before it.
        sent: names that the coordinator sent, which may be repeated to it.
    """
    for form in _COMPILED:
        found = form.fullmatch(line)
        if found is not None and all(text is None or text in sent for text in found.groupdict().values()):
            return True
    return False


def _compiled(form: str) -> re.Pattern[str]:
    parts: list[str] = []
    for number, (text, piece, _, _) in enumerate(Formatter().parse(form)):
        parts.append(re.escape(text))
        if piece is not None:
            wanted = _PIECES[piece]
            parts.append(wanted.replace("%d", str(number)))
    return re.compile("".join(parts))


_COMPILED = tuple(map(_compiled, FORMS))
