"""The style sheet: one blue for the policy, one amber for the VLM, greys; light, dark and print."""

CSS = """
:root { color-scheme: light dark;
  --page: #f7f8fa; --card: #ffffff; --ink: #161b26; --soft: #5b6475; --hair: #e3e6ec; --grid: #eceef3;
  --policy: #2f55d4; --vlm: #c26a0a; --reference: #7a8394; --tint: #eef2fd; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0f131a; --card: #171c25; --ink: #e7eaf0; --soft: #9aa4b5; --hair: #2a313d; --grid: #232a35;
  --policy: #86a3ff; --vlm: #f0a94b; --reference: #8b95a7; --tint: #1b2438; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1112px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -0.02em; margin: 2px 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 0 0 2px; }
p { margin: 0; } .lead { color: var(--soft); margin-bottom: 16px; max-width: 100ch; }
.eyebrow { color: var(--policy); font-weight: 600; font-size: 13px; letter-spacing: 0.04em; }
.facts { color: var(--soft); } .facts b { color: var(--ink); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--hair); border-radius: 12px; padding: 24px 28px;
  margin-top: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(162px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tile { background: var(--card); border: 1px solid var(--hair); border-radius: 12px; padding: 12px 16px; }
.tile .name { color: var(--soft); font-size: 13px; } .tile .more { color: var(--soft); font-size: 13px; }
.tile .value { font-size: 22px; line-height: 1.4; font-weight: 650; letter-spacing: -0.02em; white-space: nowrap; }
.tile.main .value { color: var(--policy); }
pre, .mono { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--hair); border-radius: 8px; padding: 10px 14px; margin: 12px 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.empty { color: var(--soft); border: 1px dashed var(--hair); border-radius: 8px; padding: 14px 16px; margin-top: 12px; }
.notes { color: var(--soft); font-size: 13px; margin: 12px 0 0; padding-left: 18px; }
.grid { display: grid; gap: 20px 28px; } .three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.five { grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 20px; }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
@media (max-width: 820px) { .three, .two { grid-template-columns: minmax(0, 1fr); }
  .five { grid-template-columns: repeat(2, minmax(0, 1fr)); } section { padding: 20px 18px; } }
figure { margin: 0; } figure.wide { overflow-x: auto; } figure.wide svg { min-width: 680px; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: center; font-size: 13px;
  color: var(--soft); margin-bottom: 8px; } figcaption strong { color: var(--ink); }
.key { display: inline-flex; align-items: center; gap: 7px; }
.key i { width: 18px; height: 0; border-top: 2.5px solid currentColor; border-radius: 2px; }
i.policy { color: var(--policy); } i.vlm { color: var(--vlm); } i.faint { opacity: 0.45; }
.key i.none { display: none; }
.key i.reference { width: 22px; height: 2px; border: 0; color: var(--reference);
  background: repeating-linear-gradient(90deg, currentColor 0 6px, transparent 6px 10px); }
.key i.rule { width: 0; height: 13px; border: 0; border-left: 1.5px dotted var(--vlm); border-radius: 0; }
.key i.span { height: 12px; border: 0; background: var(--vlm); opacity: 0.22; border-radius: 3px; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 11px; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--soft); stroke-opacity: 0.55; }
svg .tick { fill: var(--soft); } svg .title { fill: var(--soft); font-size: 12px; } svg .mid { text-anchor: middle; }
svg .end { text-anchor: end; } svg .tick.vlm { fill: var(--vlm); font-weight: 600; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .line.policy { stroke: var(--policy); } svg .line.vlm { stroke: var(--vlm); }
svg .line.faint { stroke-width: 1.1; stroke-opacity: 0.4; }
svg .dot { stroke: var(--card); stroke-width: 1.2; }
svg .dot.policy { fill: var(--policy); } svg .dot.vlm { fill: var(--vlm); }
svg .band.policy { fill: var(--policy); fill-opacity: 0.14; } svg .span.vlm { fill: var(--vlm); fill-opacity: 0.09; }
svg .bar.vlm { fill: var(--vlm); fill-opacity: 0.85; }
svg .level.reference { stroke: var(--reference); stroke-width: 1.6; stroke-dasharray: 6 5; }
svg .rule { stroke: var(--vlm); stroke-opacity: 0.6; stroke-width: 1.1; stroke-dasharray: 1.5 3.5; }
.scroll { overflow-x: auto; margin-top: 20px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; } th, td { padding: 7px 10px; text-align: right; }
th { font-weight: 600; font-size: 12.5px; line-height: 1.3; color: var(--soft); vertical-align: bottom;
  border-bottom: 1px solid var(--soft); }
td { border-bottom: 1px solid var(--hair); white-space: nowrap; } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td:last-child, th:last-child { padding-right: 0; }
td small { color: var(--soft); font-size: 12.5px; }
.options td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.options td:first-child { width: 34%; color: var(--soft); }
details { border-bottom: 1px solid var(--hair); } details:last-child { border-bottom: 0; }
summary { cursor: pointer; padding: 9px 0; font-weight: 600; } summary small { color: var(--soft); font-weight: 400; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 16px; padding: 6px 0 18px; }
.card { border: 1px solid var(--hair); border-radius: 10px; overflow: hidden; display: flex; flex-direction: column; }
.card img, .card .hole { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  background: var(--grid); } .card .hole { display: grid; place-items: center; color: var(--soft); font-size: 13px; }
.card .body { padding: 12px 14px 14px; display: grid; gap: 6px; font-size: 13px; }
.said { display: grid; grid-template-columns: 52px 1fr; gap: 2px 8px; align-items: baseline; }
.said span { font-weight: 600; }
.said .by-vlm { color: var(--vlm); } .said .by-policy { color: var(--policy); }
.said .mono { overflow-wrap: anywhere; white-space: pre-wrap; }
.prompt { color: var(--soft); font-size: 12.5px; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 9em; overflow-y: auto; }
.prompt.shared { max-height: none; margin-bottom: 12px; border-left: 3px solid var(--hair); padding-left: 12px; }
.weight { height: 4px; border-radius: 2px; background: var(--grid); overflow: hidden; }
.weight i { display: block; height: 100%; background: var(--vlm); }
video { display: block; width: min(100%, 480px); border-radius: 10px; background: var(--grid); }
footer { color: var(--soft); font-size: 13px; margin-top: 24px; }
@media print { main { max-width: none; padding: 0; } section { break-inside: avoid; } }
"""
