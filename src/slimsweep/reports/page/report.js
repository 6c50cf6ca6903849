"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 800px)");
  const body = at("records").tBodies[0];
  const rows = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  for (const part of document.querySelectorAll(".script")) part.hidden = false;

  // Plotly reads a few tags and entities in texts: a name must show as it is.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const hover = (text) => text.split("\n").map(plain).map((line, n) => (n ? line : `<b>${line}</b>`)).join("<br>");

  // The table: sorting, a filter by words, and a filter by the line of a clicked point.
  let picked = null; // keys of the line, and the clicked key
  function filter() {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [key, row] of rows) {
      const text = row.textContent.toLowerCase();
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
      const fits = words.every((word) => (/^[\d.]+$/.test(word) ? cells.includes(word) : text.includes(word)));
      row.hidden = !fits || (picked !== null && !picked.keys.has(key));
      row.classList.toggle("chosen", picked !== null && picked.key === key);
      count += !row.hidden;
    }
    at("shown").textContent = `${count} of ${rows.size} records` + (picked ? `: ${picked.line}` : "");
    at("all").hidden = picked === null && !words.length;
    at("picked").hidden = picked === null;
    at("picked").firstChild.textContent = `The table shows ${at("shown").textContent}.`;
  }
  at("filter").addEventListener("input", filter);
  at("all").addEventListener("click", () => { picked = null; at("filter").value = ""; filter(); });

  const number = (text) => { const found = text.match(/^[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?/i); return found ? parseFloat(found[0].replace(/,/g, "")) : NaN; };
  function sort(heading, place) {
    const ascends = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascends ? "ascending" : "descending");
    const isNumber = heading.classList.contains("number");
    const value = (row) => { const text = row.cells[place].textContent; return isNumber ? number(text) : text; };
    const order = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!isNumber) return ascends ? x.localeCompare(y) : y.localeCompare(x);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // empty cells stay last
      return ascends ? x - y : y - x;
    });
    body.append(...order);
  }
  [...at("records").tHead.rows[0].cells].forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sort(heading, place));
  });

  // A link to a job opens its details.
  function open() {
    const target = location.hash.startsWith("#job-") && at(location.hash.slice(1));
    if (target) { target.parentNode.open = true; target.parentNode.scrollIntoView(); }
  }
  window.addEventListener("hashchange", open);

  // The charts.
  if (!data.charts.length) at("charts").hidden = true;
  const choose = (id, names) => names.forEach((name, place) => at(id).add(new Option(name, place)));
  choose("quality", data.charts.map((chart) => chart.name));
  choose("cost", data.costs.map((cost) => cost.title));

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { ink: read("--ink"), faint: read("--faint"), line: read("--line"), card: read("--card") };
  }
  // A log axis over many decades labels the powers of ten alone.
  const decades = (points) => Math.log10(Math.max(...points.map((point) => point.y)) / Math.min(...points.map((point) => point.y)));
  function layout(chart, x) {
    const { ink, faint, line, card } = colours();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, title: { standoff: 8 } };
    const y = { ...axis, title: { text: plain(chart.title), standoff: 8 }, type: chart.isLog ? "log" : "linear" };
    if (chart.isLog && decades(chart.points) > 2.5) y.dtick = 1;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: ink },
      margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "closest", dragmode: narrow.matches ? false : "zoom",
      xaxis: { ...axis, ...x }, yaxis: y,
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: narrow.matches ? 10 : 11 } },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink, size: 12 }, align: "left" },
    };
  }
  const settings = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], displayModeBar: narrow.matches ? false : "hover" };
  // Colours are chosen for white paper: on a dark ground they are mixed with white.
  const shade = (colour) => (dark.matches ? "#" + colour.slice(1).match(/../g).map((part) => Math.round(parseInt(part, 16) * 0.65 + 89).toString(16).padStart(2, "0")).join("") : colour);
  const look = (line) => (line in data.looks ? { ...data.looks[line], color: shade(data.looks[line].color) } : { color: colours().ink, symbol: "star" });
  const mark = (points, chart, x, line) => ({
    type: "scatter", mode: "markers", name: plain(line), legendgroup: line, x: points.map(x), y: points.map((point) => point.y),
    text: points.map((point) => hover(point.hover)), hovertemplate: "%{text}<extra></extra>", customdata: points.map((point) => point.key),
    marker: { color: look(line).color, symbol: look(line).symbol, size: points[0].isDense ? 13 : 9, line: { width: 0.5, color: colours().card } },
  });
  const lines = (points) => [...new Set(points.map((point) => point.line))];

  function pareto(chart, cost) {
    const x = (point) => point.costs[cost.field];
    const points = chart.points.filter((point) => x(point) !== null);
    const front = chart.fronts[cost.field].map((place) => chart.points[place]);
    const traces = [];
    if (front.length > 1) traces.push({ type: "scatter", mode: "lines", name: "Pareto front", x: front.map(x), y: front.map((point) => point.y), hoverinfo: "skip", line: { shape: cost.smaller_is_better ? "hv" : "vh", dash: "dot", width: 1.5, color: colours().faint } });
    for (const line of lines(points)) traces.push(mark(points.filter((point) => point.line === line), chart, x, line));
    Plotly.react(at("pareto"), traces, layout(chart, { title: { text: plain(cost.title), standoff: 8 }, type: cost.is_log ? "log" : "linear" }), settings);
  }
  function ratio(chart) {
    const points = chart.points.filter((point) => point.ratio !== null);
    at("ratio-card").hidden = !points.length;
    at("ratio-card").parentNode.classList.toggle("one", !points.length || !data.costs.length);
    if (!points.length) return;
    const traces = [];
    for (const line of lines(points)) {
      const mean = chart.means[line] || [];
      traces.push({ type: "scatter", mode: "lines", legendgroup: line, showlegend: false, hoverinfo: "skip", x: mean.map((point) => point[0]), y: mean.map((point) => point[1]), line: { color: look(line).color, width: 1.5 } });
      traces.push(mark(points.filter((point) => point.line === line), chart, (point) => point.ratio, line));
    }
    for (const point of chart.points.filter((point) => point.isDense))
      traces.push({ type: "scatter", mode: "lines", name: plain(point.line), x: [0, 1], y: [point.y, point.y], hoverinfo: "skip", line: { dash: "dash", width: 1, color: colours().ink } });
    Plotly.react(at("ratio"), traces, layout(chart, { title: { text: "requested ratio", standoff: 8 }, range: [0, 1] }), settings);
  }
  function click(event) {
    const key = event.points[0].customdata;
    const chart = data.charts[at("quality").value || 0];
    const point = chart.points.find((one) => one.key === key);
    if (!point) return;
    picked = { key, line: point.line, keys: new Set(chart.points.filter((one) => one.line === point.line).map((one) => one.key)) };
    at("filter").value = "";
    filter();
    const view = body.closest(".scroll");
    view.scrollTop = rows.get(key).offsetTop - view.clientHeight / 2; // the page itself stays where it is
  }
  function draw() {
    const chart = data.charts[at("quality").value || 0];
    if (!chart) return;
    const cost = data.costs[at("cost").value || 0];
    at("pareto-card").hidden = !cost;
    ratio(chart);
    if (cost) pareto(chart, cost);
    at("protocol").textContent = [chart.protocol && `Protocol: ${chart.protocol}.`, chart.better && `A ${chart.better} value is better.`].filter(Boolean).join(" ");
    for (const id of ["pareto", "ratio"]) if (at(id).on && !at(id).dataset.listens) { at(id).on("plotly_click", click); at(id).dataset.listens = "yes"; }
  }
  for (const id of ["quality", "cost"]) at(id).addEventListener("change", draw);
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
  filter();
  open();
})();
