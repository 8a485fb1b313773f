// What a scrape says, as a page. All that comes from the daemon is shown with textContent: names are never markup.
"use strict";

const rowsShown = 200, ends = 40, samples = 90; // more than these help nobody, and cost the browser
const history = new Map(); // of a series: its last rates, [in, out]
let before = null; // the scrape before this one
let now = null;

const byId = (id) => document.getElementById(id);

// parse reads the text format of Prometheus: a map of names to lists of {labels, value}.
function parse(text) {
  const all = new Map();
  for (const line of text.split("\n")) {
    const head = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?/.exec(line);
    if (!head) continue;
    const labels = {};
    let rest = line.slice(head[0].length);
    while (head[2]) {
      const label = /^,?([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/.exec(rest);
      if (!label) break;
      labels[label[1]] = label[2].replace(/\\(.)/g, (_, c) => c === "n" ? "\n" : c);
      rest = rest.slice(label[0].length);
    }
    const value = Number(rest.replace(/^\}/, "").trim().split(" ")[0]);
    if (!all.has(head[1])) all.set(head[1], []);
    all.get(head[1]).push({ labels, value });
  }
  return all;
}

// A scrape as maps from "device", or from what tells a peer, to figures.
function scrapeOf(text, at) {
  const m = parse(text), s = { at, tunnels: new Map(), peers: new Map(), drops: new Map(), hidden: 0, version: "", ready: 0 };
  const each = (name, f) => { for (const x of m.get("gvtep_" + name) || []) f(x.labels, x.value); };
  const tunnel = (l) => s.tunnels.get(l.device) || s.tunnels.set(l.device, { device: l.device, in: 0, out: 0, macs: 0 }).get(l.device);
  const peer = (l) => {
    const key = JSON.stringify([l.device, l.vni, l.remote, l.peer]);
    return s.peers.get(key) || s.peers.set(key, { key, device: l.device, remote: l.remote, name: l.peer, in: 0, out: 0, state: "", last: 0 }).get(key);
  };
  each("build_info", (l) => { s.version = l.version; });
  each("ready", (_, v) => { s.ready = v; });
  each("tunnel_info", (l) => { Object.assign(tunnel(l), { id: l.vni, encap: l.encap, mode: l.mode, port: l.dstport }); });
  each("tunnel_up", (l, v) => { tunnel(l).up = v; });
  each("tunnel_mtu_bytes", (l, v) => { tunnel(l).mtu = v; });
  each("receive_bytes_total", (l, v) => { tunnel(l).in += v; });
  each("transmit_bytes_total", (l, v) => { tunnel(l).out += v; });
  each("fdb_entries", (l, v) => { tunnel(l).macs += v; });
  each("peer_receive_packets_total", (l, v) => { peer(l).in = v; });
  each("peer_transmit_packets_total", (l, v) => { peer(l).out = v; });
  each("peer_last_receive_timestamp_seconds", (l, v) => { peer(l).last = v; });
  each("peer_state", (l, v) => { if (v === 1) peer(l).state = l.state; });
  const paths = new Map();
  each("peer_path_mtu_bytes", (l, v) => { paths.set(l.remote, v); });
  for (const p of s.peers.values()) p.path = paths.get(p.remote);
  each("peers_without_series", (_, v) => { s.hidden = v; });
  each("dropped_packets_total", (l, v) => {
    if (v > 0) s.drops.set(JSON.stringify([l.device, l.direction, l.reason]), { device: l.device, direction: l.direction, reason: l.reason, count: v });
  });
  return s;
}

// rates are [in, out] a second since the scrape before, and go into the history.
function rates(kind, key, x) {
  const old = before && before[kind].get(key), span = before ? (now.at - before.at) / 1000 : 0;
  const pair = old && span > 0 ? [Math.max(0, x.in - old.in) / span, Math.max(0, x.out - old.out) / span] : [0, 0];
  const name = kind + key, list = history.get(name) || history.set(name, []).get(name);
  if (old) list.push(pair);
  if (list.length > samples) list.shift();
  return { pair, list };
}

function unit(n, word, thousand = 1000) {
  for (const prefix of ["", "k", "M", "G", "T"]) {
    if (n < thousand || prefix === "T") return (n < 10 && prefix ? n.toFixed(1) : Math.round(n)) + " " + prefix + word;
    n /= thousand;
  }
}
const bits = (n) => unit(n * 8, "bit/s"), packets = (n) => unit(n, "pps");

function ago(seconds) {
  if (seconds < 60) return Math.max(0, Math.round(seconds)) + " s ago";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min ago";
  return seconds < 86400 ? Math.floor(seconds / 3600) + " h ago" : Math.floor(seconds / 86400) + " d ago";
}

const svgNS = "http://www.w3.org/2000/svg";
function svg(name, attributes, text) {
  const e = document.createElementNS(svgNS, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

function chart(list) {
  const top = Math.max(1, ...list.map((p) => Math.max(p[0], p[1]))), box = svg("svg", { class: "chart", viewBox: `0 0 ${samples} 30`, preserveAspectRatio: "none", role: "img" });
  ["in", "out"].forEach((name, i) => {
    const points = list.map((p, x) => `${x ? "L" : "M"}${samples - list.length + x} ${(29 - 28 * p[i] / top).toFixed(1)}`);
    if (points.length) box.append(svg("path", { class: name, d: points.join("") }));
  });
  return box;
}

// fill gives a table its rows: of cells that are text, or {text, mark, node, wide}.
function fill(id, rows) {
  const table = byId(id), heads = [...table.querySelectorAll("th")].map((th) => th.textContent);
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const tr = document.createElement("tr");
    cells.forEach((cell, i) => {
      const td = document.createElement("td"), c = typeof cell === "object" ? cell : { text: cell };
      td.dataset.label = heads[i];
      if (c.node) td.append(c.node); else td.textContent = c.text;
      if (c.mark) td.classList.add(c.mark);
      if (c.wide) td.classList.add("wide");
      tr.append(td);
    });
    return tr;
  }));
}

function markOf(p) {
  if (p.state === "heard") return now.at / 1000 - p.last < 10 ? "good" : "late";
  return p.state ? "bad" : "soft";
}
const badness = { bad: 0, late: 1, good: 2, soft: 3 };

function draw() {
  byId("host").textContent = `${location.host}, ${now.version}`;
  fill("tunnels", [...now.tunnels.entries()].slice(0, rowsShown).map(([key, t]) => {
    const r = rates("tunnels", key, t);
    return [t.device, `${t.id || "trunk"} (${t.encap}, ${t.mode})`, { text: t.up ? "up" : "down", mark: t.up ? "good" : "bad" }, t.mtu, bits(r.pair[0]), bits(r.pair[1]),
      { node: chart(r.list), wide: true }, t.mode === "l3" ? "-" : t.macs];
  }));
  for (const [key, p] of now.peers) { Object.assign(p, rates("peers", key, p)); p.mark = markOf(p); }
  for (const name of history.keys()) {
    if (!now.tunnels.has(name.replace(/^tunnels/, "")) && !now.peers.has(name.replace(/^peers/, ""))) history.delete(name);
  }
  drawPeers();
  drawGraph();
  const said = new Map();
  for (const dt of byId("reasons").querySelectorAll("dt")) said.set(dt.textContent, dt.nextElementSibling.textContent);
  const span = before ? (now.at - before.at) / 1000 : 0;
  const drops = [...now.drops.entries()].map(([key, d]) => {
    const old = before && before.drops.get(key);
    return { ...d, rate: before && span > 0 ? Math.max(0, d.count - (old ? old.count : 0)) / span : 0 };
  }).sort((x, y) => y.rate - x.rate || y.count - x.count);
  fill("drops", drops.slice(0, rowsShown).map((d) => [d.device || "no tunnel", d.direction === "receive" ? "in" : "out", { text: d.reason, mark: d.rate > 0 ? "bad" : "" }, d.count, packets(d.rate),
    { text: said.get(d.reason) || "", wide: true }]));
  byId("nodrops").hidden = drops.length > 0;
}

function drawPeers() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const all = [...now.peers.values()].filter((p) => [p.device, p.name, p.remote, p.state].some((x) => x.toLowerCase().includes(wanted)));
  all.sort((x, y) => badness[x.mark] - badness[y.mark] || y.pair[0] + y.pair[1] - x.pair[0] - x.pair[1] || (x.key < y.key ? -1 : 1));
  const more = all.length - rowsShown + now.hidden;
  byId("shown").textContent = `${Math.min(all.length, rowsShown)} of ${now.peers.size + now.hidden}` + (more > 0 && now.hidden ? `, ${now.hidden} are beyond the limit of metrics.peers` : "");
  fill("peers", all.slice(0, rowsShown).map((p) => [p.device, p.name ? `${p.name} ${p.remote}` : p.remote, { text: p.state || "-", mark: p.mark },
    p.state ? (p.last ? ago(now.at / 1000 - p.last) : "never") : "-", p.path === 0 ? { text: "no route", mark: "bad" } : String(p.path), packets(p.pair[0]), packets(p.pair[1]), { node: chart(p.list), wide: true }]));
}

// short is what fits into a box of the graph.
const short = (text) => text.length > 26 ? text.slice(0, 25) + "\u2026" : text;

// drawGraph has the tunnels of this host on the left, their peers on the right. A line has the color of what is heard.
function drawGraph() {
  const peers = [...now.peers.values()].sort((x, y) => badness[x.mark] - badness[y.mark] || (x.key < y.key ? -1 : 1));
  const right = new Map(), left = new Map(), lines = [];
  for (const p of peers) {
    if (right.size >= ends && !right.has(p.remote)) continue;
    if (!left.has(p.device)) left.set(p.device, left.size);
    if (!right.has(p.remote)) right.set(p.remote, { row: right.size, name: p.name });
    lines.push(p);
  }
  const rows = Math.max(left.size, right.size), height = 20 + rows * 44;
  const yOf = (row, of) => 10 + (rows / of) * 44 * (row + .5);
  const box = svg("svg", { viewBox: `0 0 640 ${height}`, role: "img", "aria-label": "tunnels and peers" });
  for (const p of lines) {
    const line = svg("line", { class: p.mark, x1: 170, x2: 410, y1: yOf(left.get(p.device), left.size), y2: yOf(right.get(p.remote).row, right.size) });
    line.append(svg("title", {}, `${p.device} ${p.remote}: ${p.state || "no state"}`));
    box.append(line);
  }
  for (const [device, row] of left) {
    const y = yOf(row, left.size), t = now.tunnels.get(device) || {};
    box.append(svg("rect", { x: 10, y: y - 18, width: 160, height: 36, rx: 5 }), svg("text", { x: 18, y: y - 2 }, device), svg("text", { x: 18, y: y + 12, class: "soft" }, `${t.encap} ${t.id || "trunk"}, mtu ${t.mtu}`));
  }
  for (const [remote, r] of right) {
    const y = yOf(r.row, right.size);
    box.append(svg("rect", { x: 410, y: y - 18, width: 220, height: 36, rx: 5 }), svg("text", { x: 418, y: y - 2 }, short(r.name || remote)), svg("text", { x: 418, y: y + 12, class: "soft" }, r.name ? remote : ""));
  }
  byId("graph").replaceChildren(...(rows ? [box] : []));
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(10000) });
  return { ok: answer.ok, text: await answer.text() };
}

async function look() {
  const begun = performance.now();
  try {
    const [scrape, ready] = [await get("../metrics"), await get("../readyz")];
    if (!scrape.ok) throw new Error(scrape.text);
    before = now;
    now = scrapeOf(scrape.text, Date.now());
    draw();
    byId("state").textContent = ready.ok ? "ready" : "not ready: " + ready.text.trim();
    byId("state").className = ready.ok ? "good" : "bad";
    byId("age").textContent = "as of " + new Date(now.at).toLocaleTimeString();
    document.body.dataset.looks = Number(document.body.dataset.looks || 0) + 1;
  } catch (e) {
    byId("state").textContent = "no answer: " + e.message;
    byId("state").className = "bad";
  }
  // An endpoint with thousands of peers takes long to answer: it is asked for a tenth of the time at most.
  setTimeout(next, Math.max(2000, 9 * (performance.now() - begun)));
}

// Nobody looks at a page in the background.
function next() {
  if (!document.hidden) { look(); return; }
  document.addEventListener("visibilitychange", next, { once: true });
}

async function find() {
  const mac = byId("mac").value.trim().toLowerCase(), say = (text) => { byId("answer").textContent = text; };
  fill("found", []);
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac)) { say("Give a whole MAC address, such as 02:00:00:00:02:10."); return; }
  try {
    const answer = await get("fdb/" + mac), found = JSON.parse(answer.text);
    if (!answer.ok) { say(found.error); return; }
    say(found.length ? "" : "No tunnel knows this address.");
    fill("found", found.map((e) => [e.ifname, String(e.gvtep && e.gvtep.id !== undefined ? e.gvtep.id : "-"), e.gvtep && e.gvtep.local ? "this host" : e.dst || "-", e.state || "learned", e.used === undefined ? "-" : ago(e.used)]));
  } catch (e) { say("no answer: " + e.message); }
}

byId("filter").addEventListener("input", () => { if (now) drawPeers(); });
byId("find").addEventListener("click", find);
byId("mac").addEventListener("keydown", (e) => { if (e.key === "Enter") find(); });
look();
