"""What the names of a series and its image type say of it, at German and international sites.

SeriesDescription counts; ProtocolName is looked at only where the description says nothing. Nothing of
either is ever returned: only our own words are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from climb_model.intake.study import Series, Stack

MIN_SLICES = 4
"""Fewer slices make no breast volume: a localizer or a test image."""

T1_MAX_ECHO_MS = 30.0
T2_MIN_ECHO_MS = 30.0
T2_IMPOSSIBLE_ECHO_MS = 20.0
"""A spin-echo series of a shorter echo time is not T2-weighted, whatever it is called."""

_UNWANTED = (
    ("a subtraction", r"s?sub(s|\d+|tr\w*)?|sou?str\w*|sustr\w*"),
    ("a projection", r"[st]?mips?\d*|minip|mip\w*|projection\w*|projektion\w*"),
    ("diffusion", r"dwi?\w?|diff\w*|ep2d|epi|resolve|trace\w*|b\d{2,4}\w?|b0|ivim|dti|e?adc\w*|zoomit"),
    ("a localizer", r"loc|locs|locali\w*|lokali\w*|survey\w*|scout\w*|plane|planung|pilot"),
    (
        "a calibration",
        r"cal|calib\w*|kalib\w*|ref|refscan\w*|shim\w*|b1map|coil\w*|bolus|testbolus|carebolus",
    ),
    ("a reformatted volume", r"mprs?|reformat\w*|rekon\w*|recon|reconstruction"),
    (
        "a map or curve computed from other series",
        r"rois?|kic|kinetic\w*|kurven?|curves?|wash\w*|pei|ttp|auc|perf\w*|cad|dynacad|ktrans|tofts|map|maps",
    ),
    ("a time-resolved series beside the dynamic one", r"twist\w*|tricks|ultrafast\w*"),
    ("a motion-corrected copy", r"moco\w*"),
    ("a picture of a screen or a report", r"screen\w*|capture|report|befund|phoenix\w*|print|save"),
    ("spectroscopy", r"spectro\w*|spektro\w*|csi|svs"),
    ("a silicone series", r"silik\w*|silic\w*"),
    ("T2* weighted", r"t2star|t2s|swi"),
)
"""What is never Pre, Post or T2 unless the mapping file says so, by single words of the description."""

_UNWANTED_TYPES = {
    "SUB": "a subtraction",
    "SUBTRACT": "a subtraction",
    "SUBTRACTION": "a subtraction",
    "MIP": "a projection",
    "MAXIMUM": "a projection",
    "MINIMUM": "a projection",
    "PROJECTION IMAGE": "a projection",
    "MAX_IP": "a projection",
    "ADC": "diffusion",
    "DIFFUSION": "diffusion",
    "TRACEW": "diffusion",
    "LOCALIZER": "a localizer",
    "MPR": "a reformatted volume",
    "REFORMATTED": "a reformatted volume",
    "SCREEN SAVE": "a picture of a screen or a report",
    "FAT": "a fat image of a Dixon series",
    "FAT_FRACTION": "a fat image of a Dixon series",
    "IN_PHASE": "an in-phase image of a Dixon series",
    "IP": "an in-phase image of a Dixon series",
    "OUT_PHASE": "an opposed-phase image of a Dixon series",
    "OPP_PHASE": "an opposed-phase image of a Dixon series",
    "OP": "an opposed-phase image of a Dixon series",
    "PHASE MAP": "a phase image",
    "T1 MAP": "a map or curve computed from other series",
    "T2 MAP": "a map or curve computed from other series",
}
_COMPLEX_PARTS = {"P": "a phase image", "R": "a real part", "I": "an imaginary part"}
"""Third value of ImageType where a magnitude image has M."""

_DIXON = r"dixon\w*|dix|mdixon\w*|flex|ideal"
_DIXON_PARTS = (
    ("a fat image of a Dixon series", r"f|fat"),
    ("an in-phase image of a Dixon series", r"in|ip|inphase"),
    ("an opposed-phase image of a Dixon series", r"opp|op|out|outphase|oppphase"),
)
_T1 = r"t1\w*"
_T2 = r"t2\w*"
_T1_SEQUENCES = (
    r"fl3d\w*|flash\w*|vibe\w*|vibrant\w*|e?thrive\w*|lava\w*|f?spgr|tfe\w*|bliss\w*|tigre|quick3d\w*"
    r"|disco|dce"
)
_T2_SEQUENCES = r"tse\w*|fse\w*|frfse\w*|tirm\w*|stir\w*|blade|propeller|multivane|space|cube|vista"
_FAT_SATURATED = r"fs|fatsat|fatsup|spair|spir|stir\w*|tirm\w*|fettges\w*|chess|proset"
_DYNAMIC = r"dyn\w*|dinam\w*|multiphase|mph\w*|dce|disco"
_CONTRAST = r"km\d*|kontrast\w*|contrast\w*|gd|gad\w*|inj\w*"
_PRE = r"pre\d*|pre(contrast|km)|nativ\w*|vor|unenhanced"
_POST = rf"post\d*|post(contrast|km)|nach|ce|late|delayed|spaet\w*|{_CONTRAST}"
_WITHOUT = r"ohne|vor|without|o|no|non|pre|sans|sin|senza|zonder"
_NUMBERED = r"(?:ph|phase|dyn|post|km)"


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Words and numbers in lower case: `eTHRIVE_dyn 1+5` gives thrive, dyn, 1, 5 (and ethrive)."""
    text = text.replace("*", "star ").replace("ß", "ss")
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue")):
        text = text.replace(umlaut, letters).replace(umlaut.upper(), letters.capitalize())
    text = re.sub(r"\+\s*(c|C|km|KM|gd|Gd|GD|k|K)\b", " km ", text)
    whole = re.findall(r"[a-z0-9]+", text.lower())
    parts = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z])", " ", text).lower())
    return (*parts, *(word for word in whole if word not in parts))


def unwanted(stack: Stack) -> str:
    """Why this volume is none of Pre, Post and T2, whatever its weighting; empty if it may be one."""
    types = [value.upper() for value in stack.frames[0].image_type]
    for value in types:
        if value in _UNWANTED_TYPES:
            return _UNWANTED_TYPES[value]
    if len(types) > 2 and types[2] in _COMPLEX_PARTS:
        return _COMPLEX_PARTS[types[2]]
    if any((frame.b_value or 0) > 0 for frame in stack.frames):
        return "diffusion"
    named = _named(stack.series)
    for reason, pattern in _UNWANTED:
        if _any(pattern, named):
            return reason
    if _any(_DIXON, named) or ":" in stack.series.description[:12]:  # GE writes `FAT: Ax T1`
        for reason, pattern in _DIXON_PARTS:
            if _any(pattern, named):
                return reason
    if len(stack.frames) < MIN_SLICES:
        return f"{len(stack.frames)} slices, fewer than {MIN_SLICES}"
    return ""


def weighting(stack: Stack) -> tuple[str, str]:
    """`T1`, `T2` or empty, and by what in words; empty with a reason where name and echo time contradict."""
    echo = stack.frames[0].echo_ms or None  # some scanners write 0 for unknown
    for text, source in ((stack.series.description, "description"), (stack.series.protocol, "protocol")):
        called = _weighting_of(words(text))
        if not called:
            continue
        if echo is not None and called == "T1" and echo > T1_MAX_ECHO_MS:
            return "", f"called T1, but its echo time is {echo:.0f} ms"
        if echo is not None and called == "T2" and echo < T2_IMPOSSIBLE_ECHO_MS:
            return "", f"called T2, but its echo time is {echo:.0f} ms"
        return called, f"{source} rule {called.lower()}"
    if echo is None:
        return "", "neither T1 nor T2 by description, protocol or echo time"
    return ("T2" if echo >= T2_MIN_ECHO_MS else "T1"), f"echo time {echo:.0f} ms"


def calls(series: Series) -> frozenset[str]:
    """Which of `pre`, `post` and `dynamic` the description says; `1+5` says all three."""
    text = series.description or series.protocol
    if re.search(r"(?<!\d)[1-3]\s?x?\s?\+\s?\d", text):
        return frozenset({"pre", "post", "dynamic"})
    named = list(words(text))
    said: set[str] = set()
    for first, second in pairwise(named):
        if re.fullmatch(_WITHOUT, first) and re.fullmatch(_CONTRAST, second):
            said.add("pre")
            named = [word for word in named if not re.fullmatch(_CONTRAST, word)]
            break
    for call, pattern in (("pre", _PRE), ("post", _POST), ("dynamic", _DYNAMIC)):
        if _any(pattern, tuple(named)):
            said.add(call)
    return frozenset(said)


def told_phase(series: Series) -> int | None:
    """The number of a phase in the description (`Ph2/...`, `post 3`); 0 for one called pre-contrast."""
    text = " ".join(words(series.description))
    numbered = re.search(rf"\b{_NUMBERED} ?(\d{{1,2}})\b", text)
    if numbered:
        return int(numbered.group(1))
    return 0 if calls(series) == frozenset({"pre"}) else None


def tells_minutes(series: Series) -> bool:
    """Whether the number in the description is a time (`KM 3 min`)."""
    return any(re.fullmatch(r"\d*(min|sec|s)", word) for word in words(series.description))


def family(series: Series) -> frozenset[str]:
    """The words of the description without those that differ between the phases of one dynamic series."""
    differing = rf"{_PRE}|{_POST}|{_DYNAMIC}|{_WITHOUT}|{_NUMBERED}\d*|\d{{1,2}}|min|sec|s"
    return frozenset(word for word in words(series.description) if not re.fullmatch(differing, word))


def fat_saturated(series: Series) -> bool:
    """Whether description or protocol tells fat suppression."""
    named = (*words(series.description), *words(series.protocol))
    return _any(_FAT_SATURATED, named) or "fat sat" in " ".join(named)


def _named(series: Series) -> tuple[str, ...]:
    return words(series.description or series.protocol)


def _weighting_of(named: tuple[str, ...]) -> str:
    """By `t1` or `t2` themselves; else by the sequences' names."""
    for t1, t2 in ((_T1, _T2), (_T1_SEQUENCES, _T2_SEQUENCES)):
        is_t1, is_t2 = _any(t1, named), _any(t2, named)
        if is_t1 != is_t2:
            return "T1" if is_t1 else "T2"
    return ""


def _any(pattern: str, named: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, word) for word in named)
