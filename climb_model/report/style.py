"""The report's style sheet: light, dark and print; colours told apart by colour-blind readers."""

from __future__ import annotations

# Line colours after Tol's 'muted' scheme (SRON/EPS/TN/09-002), darkened or lightened for their background.
_LIGHT = """
--paper:#ffffff;--ink:#1b2430;--soft:#5a6675;--rule:#dbe0e7;--panel:#f4f6f9;--accent:#0a58a6;--warn:#9a3412;
--c0:#cc5468;--c1:#332288;--c2:#a88a12;--c3:#117733;--c4:#2f8fc4;--c5:#882255;--c6:#2a8c7c;--c7:#77771a;--c8:#aa4499;
"""
_DARK = """
--paper:#11161d;--ink:#e7ebf0;--soft:#9da9b8;--rule:#2b3440;--panel:#19212b;--accent:#74b9ff;--warn:#fdba74;
--c0:#ee8c9c;--c1:#9c93f2;--c2:#ddcc77;--c3:#57c27c;--c4:#88ccee;--c5:#e27aab;--c6:#5fcdbc;--c7:#bcbc4c;--c8:#da93cf;
"""

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"@media print{{:root{{color-scheme:light;{_LIGHT}}}}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans","Liberation Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:880px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:20px;line-height:1.3;margin:52px 0 6px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:15px;margin:0 0 2px;font-weight:600;overflow-wrap:anywhere}
p{margin:8px 0;max-width:70ch}
.device{display:inline-block;margin:0 0 14px;padding:2px 10px;border:1px solid currentColor;
border-radius:99px;color:var(--warn);font-size:14px;font-weight:600}
.note,.multiples p{color:var(--soft);font-size:14px}
.headline{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:26px 0 0;padding:0;list-style:none}
.headline li{background:var(--panel);border-radius:10px;padding:12px 14px;display:flex;flex-direction:column}
.headline li:first-child,.headline li:nth-child(2){grid-column:span 2}
.headline b{font-size:24px;line-height:1.25;font-weight:650;letter-spacing:-.01em}
.headline li:first-child b{color:var(--accent)}
.headline small{color:var(--soft);font-size:13px;line-height:1.4;order:-1}
.headline i{font-style:normal;color:var(--soft);font-size:13px}
.wide{display:block}.narrow{display:none}
.chart{width:100%;height:auto;display:block;margin:10px 0;overflow:visible}
svg text{fill:var(--ink);font-size:12.5px}
.axes text{fill:var(--soft)}
.narrow svg text{font-size:12px}
.grid{stroke:var(--rule);stroke-width:1}
.tick{stroke:var(--soft);stroke-width:1}
.line,.leader,.range{fill:none;stroke:var(--c,var(--soft));stroke-linejoin:round;stroke-linecap:round}
.line{stroke-width:1.5}
.leader{stroke-width:1;opacity:.55}
.bold{--c:var(--accent)}.guide{--c:var(--soft)}.faint{--c:var(--rule)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}
.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}.c8{--c:var(--c8)}
svg g:not(.axes)>text{fill:var(--c)}
.bold .line,.line.bold{stroke-width:3}
.bold text{font-weight:650}
.lone{fill:var(--c)}
.bold circle{fill:var(--accent);stroke:var(--paper);stroke-width:1.2}
.guide .line,.line.guide{stroke-dasharray:5 4;stroke-width:1.3}
.area{fill:var(--accent);opacity:.1}
.range{stroke:var(--accent);stroke-width:3;opacity:.45}
.dot{fill:var(--accent);stroke:var(--paper);stroke-width:1.2}
.interval{display:block;overflow:visible}
.interval text{fill:var(--soft);font-size:12px;font-weight:400}
.legend{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px}
.legend li{display:flex;align-items:center;gap:6px}
.legend svg{flex:none}
.multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));
gap:22px 18px;margin-top:14px}
.multiples figure{margin:0;break-inside:avoid;display:flex;flex-direction:column}
.multiples figure svg{margin-top:auto}
.multiples .bold{stroke-width:2.2}
.multiples svg text{font-size:11px}
.multiples p{margin:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:12px 0;font-size:15px}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--rule);vertical-align:middle}
th{font-weight:600;color:var(--soft);font-size:13px;vertical-align:bottom}
tr>:last-child{padding-right:0}
.number{text-align:right;white-space:nowrap}
td.bar,th.bar{width:34%;min-width:90px}
td.words{overflow-wrap:anywhere;min-width:16ch}
tr.total td{font-weight:650;border-bottom:0}
.ci{color:var(--soft);font-weight:400;white-space:nowrap;display:inline-block}
.below{display:none;color:var(--soft);font-size:13px}
.tensors{columns:2;column-gap:34px;list-style:none;padding:0;margin:12px 0;font-size:13px}
.tensors li{display:flex;justify-content:space-between;gap:12px;break-inside:avoid;
border-bottom:1px solid var(--rule);padding:2px 0}
.tensors span{color:var(--soft);white-space:nowrap}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px}
code{overflow-wrap:anywhere}
pre{background:var(--panel);border-radius:10px;padding:14px 16px;margin:12px 0;columns:2;column-gap:28px;
white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.5}
footer{margin-top:48px;padding-top:14px;border-top:1px solid var(--rule);color:var(--soft);font-size:14px}
@media (max-width:640px){
main{padding:22px 16px 40px}
h1{font-size:24px}
h2{margin-top:38px}
.wide{display:none}.narrow{display:block}
.headline{grid-template-columns:repeat(2,1fr);gap:10px}
.headline b{font-size:20px}
.multiples{grid-template-columns:repeat(2,1fr);gap:18px 12px}
.tensors,pre{columns:1}
table{font-size:14px}
th,td{padding-right:9px}
td.bar,th.bar{width:34%;min-width:80px}
.forest .ci{display:block}
.forest .count{display:none}
.forest .below{display:block}
}
@media print{
body{font-size:11pt}
pre{font-size:8pt}
main{max-width:none;padding:0}
h2{break-after:avoid}
h2,.headline li{-webkit-print-color-adjust:exact;print-color-adjust:exact}
svg,tr,.headline,figure{break-inside:avoid}
.multiples{grid-template-columns:repeat(3,1fr)}
.wide{display:block}.narrow{display:none}
}
"""
)
"""Everything the page's look needs; it names no outside resource."""
