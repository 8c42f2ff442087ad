"""Every fault that the check of a site can find: its stable code, how bad it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
"""Error: must be mended before the site takes part. Warning: exams are left out, or something is doubtful."""


@dataclass(frozen=True)
class Kind:
    """One code."""

    severity: str
    what: str
    advice: str
    spoils: bool = False
    """Whether an exam that has it cannot be used."""


AGAIN = "copy the file again from its source, or import the exam again"
CONVERT = "convert the exam again from its DICOM files"

FILES = {
    "files.unreadable": Kind(
        ERROR, "the file or folder cannot be read", "look at the disk and at its rights", True
    ),
    "files.truncated": Kind(ERROR, "the file ends too early", AGAIN, True),
    "files.damaged": Kind(ERROR, "the file is damaged: its bytes do not fit its checksum", AGAIN, True),
    "files.not_nifti": Kind(ERROR, "the file is no NIfTI image", CONVERT, True),
    "files.not_3d": Kind(ERROR, "the file is no single 3-D image of real numbers", CONVERT, True),
    "files.no_orientation": Kind(
        ERROR, "the header tells no position: sform and qform are unset", CONVERT, True
    ),
    "files.forms_disagree": Kind(ERROR, "sform and qform place the image differently", CONVERT, True),
    "files.pixdim_disagrees": Kind(ERROR, "pixdim and affine tell different voxel sizes", CONVERT, True),
    "files.too_long": Kind(ERROR, "the file is longer than its header says", AGAIN, True),
    "files.bad_header": Kind(ERROR, "the header is impossible: size, scaling or axes", CONVERT, True),
    "files.spacing_implausible": Kind(
        ERROR, "the voxel spacing is below 0.1 mm or above 20 mm", f"the unit is not mm: {CONVERT}", True
    ),
    "files.size_differs": Kind(
        ERROR,
        "a sequence has another number of voxels than the exam's first",
        "resample it to Pre's grid",
        True,
    ),
    "files.grid_differs": Kind(
        ERROR, "a sequence lies elsewhere than the exam's first", "resample it to Pre's grid", True
    ),
    "files.not_finite": Kind(
        ERROR, "the image has voxels that are no number (NaN or infinite)", CONVERT, True
    ),
    "files.same_pixels": Kind(
        ERROR, "the same pixels stand under two UIDs", "find which exam it is; remove the other folder"
    ),
    "files.same_in_exam": Kind(
        ERROR, "two sequences of one exam hold the same pixels", "name the right file for each sequence"
    ),
    "files.sides_swapped": Kind(
        ERROR,
        "left and right are swapped: the left breast lies to the right of the right one",
        "find whether the names or the affines are wrong; never flip the voxels by eye",
    ),
    "files.no_side": Kind(
        ERROR,
        "the folder's name ends neither in _left nor in _right",
        "name the folder <ID>_left or _right",
        True,
    ),
    "files.no_sequence": Kind(
        ERROR, "no sequence that the settings want", "name the files Pre, Sub, T2", True
    ),
    "files.empty_folder": Kind(
        WARNING, "the exam's folder is empty", "import the exam again or remove it", True
    ),
    "files.sequence_missing": Kind(
        WARNING, "a sequence is missing", "import it, if the hospital has it; else the exam is used without"
    ),
    "files.constant": Kind(WARNING, "all voxels have one value: the sequence counts as absent", CONVERT),
    "files.sub_unsigned": Kind(
        WARNING,
        "the subtraction is stored without a sign: what darkened is lost",
        "subtract again in a signed number type",
    ),
    "files.side_doubtful": Kind(
        WARNING,
        "the breast lies on the other side of the scanner's middle than its name says",
        "look at the exam",
    ),
    "files.spacing_one": Kind(
        WARNING, "the spacing is exactly 1 x 1 x 1 mm, as in files that have lost theirs", CONVERT
    ),
    "files.not_axial": Kind(
        WARNING, "the thickest voxel axis does not run from foot to head", "use axial series, or resample"
    ),
    "files.oblique": Kind(
        WARNING,
        "the image is turned by more than 20 degrees; its turn is ignored",
        "resample to straight axes",
    ),
    "files.small": Kind(WARNING, "the image has fewer than 4 voxels along an axis", CONVERT),
    "files.twice": Kind(
        WARNING, "one sequence has two files; the first by name is used", "remove the wrong one"
    ),
    "files.unknown": Kind(
        WARNING, "files that belong to no layout", "look for identifiers in them; remove them"
    ),
    "files.unfinished": Kind(WARNING, "leftovers of an interrupted import or removal", "run it again"),
    "files.many_grids": Kind(
        NOTE, "different grids (size and spacing) at this site; all are resampled", "nothing to do"
    ),
    "files.unused": Kind(
        NOTE, "sequences that the settings do not use; only headers were read", "nothing to do"
    ),
    "files.side_unknown": Kind(
        NOTE, "both breasts of an examination have the same position: a swap cannot be seen", "nothing to do"
    ),
    "files.not_read": Kind(NOTE, "files whose pixels were not read (--quick)", "run without --quick"),
}

TABLES = {
    "tables.layout": Kind(
        ERROR, "the folder has no known layout", "see the data format: ODELIA or UKA/CLIMB"
    ),
    "tables.missing": Kind(ERROR, "a table is missing", "write it, or correct its name"),
    "tables.empty": Kind(ERROR, "a table is empty", "write its header and rows"),
    "tables.not_utf8": Kind(ERROR, "a table is not UTF-8; read as Windows-1252 here", "save it as CSV UTF-8"),
    "tables.broken": Kind(
        ERROR, "a table is no sound CSV file", "close the quote there, or save the table again"
    ),
    "tables.cells": Kind(
        ERROR, "lines with more or fewer cells than the header", "put texts with separators into quotes"
    ),
    "tables.column_missing": Kind(ERROR, "a column is missing", "correct its name, or add it"),
    "tables.column_twice": Kind(ERROR, "a column stands there twice", "remove one"),
    "tables.no_uid": Kind(ERROR, "rows without UID", "fill in the UID or remove the row"),
    "tables.leading_zeros": Kind(
        ERROR,
        "UIDs that differ in leading zeros only",
        "write UIDs as text: table programs drop the zeros",
        True,
    ),
    "tables.uid_twice": Kind(ERROR, "UIDs that are listed twice", "remove the second row"),
    "tables.uid_two_splits": Kind(ERROR, "UIDs in two splits", "leave each in one split", True),
    "tables.patient_two_splits": Kind(
        ERROR, "patients whose exams are in two splits", "put all exams of a patient into one split"
    ),
    "tables.bad_split": Kind(ERROR, "rows whose Split is not train, val or test", "correct the word", True),
    "tables.no_fold": Kind(ERROR, "the split table lists folds, but not fold 0", "number the folds from 0"),
    "tables.finding_cell": Kind(ERROR, "cells of findings that are not 0, 1 or empty", "correct the cells"),
    "tables.column_near": Kind(
        WARNING, "a column that need not be there is there under another name", "correct its name"
    ),
    "tables.no_folder": Kind(
        WARNING, "rows of the split table without a folder", "import the exams, or remove the rows"
    ),
    "tables.no_split": Kind(WARNING, "folders without a row in the split table", "add the rows", True),
    "tables.no_patient": Kind(WARNING, "exams without a PatientID in annotation.csv", "add it", True),
    "tables.no_findings": Kind(WARNING, "exams without a row in the findings table", "add the rows"),
    "tables.annotation_extra": Kind(
        WARNING, "rows of annotation.csv that belong to no exam", "remove or correct them"
    ),
    "tables.reports_extra": Kind(
        WARNING, "reports that belong to no exam", "remove them, or correct their UID"
    ),
    "tables.findings_extra": Kind(
        WARNING, "rows of findings that belong to no exam", "remove or correct them"
    ),
    "tables.not_whole": Kind(
        WARNING, "exams whose Fold, Age or Lesion is no whole number", "correct the cell", True
    ),
    "tables.lesion_range": Kind(
        WARNING, "exams whose Lesion is not 0, 1 or 2", "0 none, 1 benign, 2 malignant"
    ),
    "tables.age_range": Kind(
        WARNING, "exams whose Age is not 10 to 120 years in days", "write the age in days"
    ),
    "tables.no_positive": Kind(
        WARNING, "findings without a positive exam in a measured split", "their AUC is undefined"
    ),
    "tables.no_negative": Kind(
        WARNING, "findings without a negative exam in a measured split", "their AUC is undefined"
    ),
}

REPORTS = {
    "reports.identifiers": Kind(
        ERROR, "reports in which rules find what identifies a person", "redact: import the reports again"
    ),
    "reports.sides_swapped": Kind(
        ERROR,
        "most reports that name one side only name the other one",
        "the columns for left and right are swapped",
    ),
    "reports.all_identical": Kind(
        ERROR, "all reports are the same: nothing to learn from", "give the real reports"
    ),
    "reports.unknown_words": Kind(
        ERROR,
        "too many report tokens are unknown to the tokenizer: the site is refused",
        "look at the encoding first",
    ),
    "reports.encoding": Kind(
        ERROR, "reports whose umlauts are damaged", "export again as UTF-8; do not replace letters by hand"
    ),
    "reports.missing": Kind(WARNING, "exams without a row in the reports", "add the reports", True),
    "reports.empty": Kind(WARNING, "exams whose report is empty", "add the text", True),
    "reports.other_side": Kind(
        WARNING, "reports that name the other breast only", "look whether the text is this breast's"
    ),
    "reports.dates": Kind(WARNING, "reports with the date of a day", "redact: import the reports again"),
    "reports.language": Kind(WARNING, "reports that are not German", "leave them out, or translate them"),
    "reports.identical": Kind(
        WARNING, "reports with one and the same text", "look whether it is a template instead of the findings"
    ),
    "reports.short": Kind(WARNING, "reports of fewer than 3 words", "look whether the text was cut"),
    "reports.long": Kind(
        NOTE, "reports that are longer than max_tokens and are cut at a sentence", "nothing to do"
    ),
    "reports.not_tokenized": Kind(
        NOTE, "length in tokens and unknown words were not checked", "give --weights DIR"
    ),
}

EXAMS = {
    "exams.too_few_patients": Kind(
        ERROR, "fewer than two patients to train on", "add exams: nothing can be contrasted"
    ),
    "exams.privacy_minimum": Kind(
        ERROR, "too few training exams: an update would tell of single ones", "add exams, or do not join yet"
    ),
    "exams.none_in_split": Kind(
        ERROR, "no usable exam in the split that is measured", "add exams to the split"
    ),
    "exams.fewer_than_batch": Kind(
        WARNING, "fewer training exams than a batch: all are taken each step", "add exams"
    ),
}

MACHINE = {
    "machine.disk": Kind(
        ERROR, "too little disk space for the slice tokens", "free space or choose another --private"
    ),
    "machine.weights": Kind(
        ERROR, "frozen weights are missing or incomplete", "download the model folder again"
    ),
    "machine.key_mode": Kind(ERROR, "others may read the pseudonym key", "chmod 600 private/pseudonym.key"),
    "machine.private_mode": Kind(
        ERROR, "others may read the private folder", "chmod 700 on the private folder"
    ),
    "machine.clock_ahead": Kind(
        ERROR, "this machine's clock is ahead: Flower refuses the site", "set the clock by NTP"
    ),
    "machine.clock_behind": Kind(
        WARNING, "this machine's clock is behind the server's", "set the clock by NTP"
    ),
    "machine.server_silent": Kind(
        WARNING, "the server did not tell its time", "look at the address and the firewall"
    ),
    "machine.site_mode": Kind(
        WARNING, "everybody on this machine may read the exams", "chmod o-rwx on the site's folder"
    ),
    "machine.reports_mode": Kind(
        WARNING, "everybody on this machine may read the reports", "chmod o-rwx on the tables"
    ),
    "machine.memory": Kind(
        WARNING, "a batch may not fit into memory", "set training.chunk_size, or the site's chunk-size"
    ),
    "machine.device": Kind(NOTE, "training runs here", "nothing to do"),
    "machine.time": Kind(NOTE, "expected time, an estimate", "nothing to do"),
    "machine.time_unknown": Kind(NOTE, "time for a round not measured", "see the reason"),
    "machine.weights_unchecked": Kind(NOTE, "weights not checked", "give --weights DIR"),
    "machine.clock_unchecked": Kind(NOTE, "clock not checked", "give --server URL"),
}

CODES = FILES | TABLES | REPORTS | EXAMS | MACHINE
"""In the order in which they are shown."""
