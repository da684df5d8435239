// The part of the page that plays: cards of takes, fed by the routes of app/routes.py. No library, nothing remote.
(() => {
  const LOOK = 400, IDLE = 2500; // ms between two looks at takes under way, and at a page without any
  const user = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
  const cards = new Map(); // one for every place that shows a take
  const url = (path) => new URL(path, document.baseURI).toString();
  const at = (rate, samples) => samples / rate;

  // Magma, at eleven points.
  const MAGMA = ["000004", "140e36", "3b0f70", "641a80", "8c2981", "b73779", "de4968", "f7705c", "fe9f6d", "fecf92", "fcfdbf"]
    .map((h) => [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)));
  const PALETTE = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) {
    const p = (i / 255) * 10, k = Math.min(9, Math.floor(p)), f = p - k;
    for (let c = 0; c < 3; c++) PALETTE[4 * i + c] = MAGMA[k][c] * (1 - f) + MAGMA[k + 1][c] * f;
    PALETTE[4 * i + 3] = 255;
  }

  async function post(path, values) {
    const answer = await fetch(url(path), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
    });
    const found = await answer.json().catch(() => ({ error: "the app does not answer; is it still running?" }));
    if (!answer.ok) throw new Error(found.error || "that did not work");
    return found;
  }

  function say(text, wrong = false) {
    const box = document.getElementById("band-says");
    if (!box) return;
    box.textContent = text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";
    box.classList.toggle("wrong", wrong);
    if (text) box.scrollIntoView({ block: "nearest" });
  }
  const tried = (work) => async (...args) => {
    try { return await work(...args); } catch (error) { say(error.message === "Failed to fetch" ? "the app does not answer; is it still running?" : error.message, true); }
  };

  function element(tag, values = {}, ...inside) {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(values)) k in e && k !== "list" ? (e[k] = v) : e.setAttribute(k, v);
    e.append(...inside);
    return e;
  }
  const button = (text, work, title) =>
    element("button", { type: "button", textContent: text, title: title || "", onclick: tried(work) });
  const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

  class Card {
    constructor(id, place) {
      this.id = id; this.place = place; this.columns = 0; this.seen = 0; this.view = null; this.gone = false;
      this.name = element("h3", { textContent: "…" });
      this.rank = element("span", { className: "rank" });
      this.state = element("p", { className: "state" }); this.state.setAttribute("role", "status");
      this.bar = element("progress", { max: 1, value: 0 }); this.bar.setAttribute("aria-label", "played so far");
      this.audio = element("audio", { controls: true, preload: "none", src: url(`sound/takes/${id}/play.wav`) });
      this.audio.onplay = () => { for (const c of cards.values()) if (c !== this) c.audio.pause(); };
      this.audio.ontimeupdate = () => this.head();
      this.audio.onended = () => this.whole();
      this.audio.onerror = () => { if (this.view && this.view.status !== "waiting" && this.audio.error && this.audio.error.code !== 1) this.whole(); };
      this.canvas = element("canvas", { width: 640, height: 96 });
      this.canvas.onclick = (e) => this.pick(e);
      this.cursor = element("div", { className: "cursor" });
      this.fork = element("div", { className: "forkline" });
      this.seam = element("div", { className: "seamline" });
      this.picture = element("div", { className: "picture" }, this.canvas, this.seam, this.fork, this.cursor);
      this.second = element("input", { type: "number", min: 0, step: 0.5, value: 0, oninput: () => this.line() });
      this.second.setAttribute("aria-label", "second to fork from");
      this.stop = button("Stop", () => post(`sound/takes/${id}/stop`, {}), "what was played stays");
      this.keep = button("Keep", () => this.toggle(), "kept takes are never cleared away");
      const name = () => { const to = prompt("A name for this take", this.view.name); return to && post(`sound/takes/${id}/rename`, { name: to }).then((f) => { this.name.textContent = f.name; }); };
      this.files = element("span", { className: "files" }, "Download ");
      for (const kind of ["wav", "flac", "mp3", "json"]) {
        const title = kind === "json" ? "its settings, for generate.py again=" : "";
        this.files.append(element("a", { href: url(`sound/takes/${id}/file.${kind}`), download: "", textContent: kind === "json" ? "settings" : kind.toUpperCase(), title }), " ");
      }
      this.remove = button("Remove", async () => { await post(`sound/takes/${id}/remove`, {}); this.leave(); });
      this.over = element("div", { className: "actions" },
        this.keep, button("Rename", name), button("Make again", () => again(id), "the same take from its settings: sample for sample"),
        button("Continue", () => act("fork", { take: id, at: null }), "play on from its end, with the settings on this page"),
        element("span", { className: "forking" }, button("Fork at", () => act("fork", { take: id, at: Number(this.second.value) }), "play on from this second, with the settings on this page"), this.second, "s"),
        button("Surprise", () => act("surprise", id), "what the model did not expect"), this.remove, this.files);
      this.root = element("article", { className: "take", tabIndex: -1 },
        element("header", {}, this.name, this.rank, this.stop), this.audio, this.picture, this.bar, this.state, this.over);
      this.root.setAttribute("aria-label", "a take"); this.root.dataset.take = id;
    }
    length() { const v = this.view; return v ? (v.prompt + (this.finished() ? v.played : v.steps)) / v.rate : 0; }
    finished() { return this.view && !["waiting", "playing"].includes(this.view.status); }
    async toggle() { const f = await post(`sound/takes/${this.id}/${this.view.kept ? "drop" : "keep"}`, {}); this.view.kept = f.kept; this.show(); hits(); }
    pick(e) {
      const box = this.canvas.getBoundingClientRect();
      const s = Math.max(0.5, ((e.clientX - box.left) / box.width) * this.length());
      this.second.value = Math.min(s, at(this.view.rate, this.view.prompt + this.view.played)).toFixed(1);
      this.line();
      if (this.finished()) this.audio.currentTime = Number(this.second.value);
    }
    line() { this.fork.style.left = this.length() ? `${(100 * Number(this.second.value)) / this.length()}%` : "0"; this.fork.hidden = !Number(this.second.value); }
    head() { this.cursor.style.left = this.length() ? `${(100 * this.audio.currentTime) / this.length()}%` : "0"; }
    whole() { // of a take that is over, any part can be sought
      if (!this.finished() || this.settled) return;
      this.settled = true;
      this.audio.preload = "metadata"; this.audio.src = url(`sound/takes/${this.id}/play.wav?whole`);
    }
    leave() { this.gone = true; this.audio.pause(); this.audio.removeAttribute("src"); this.root.remove(); cards.delete(this.key); }
    take(v) {
      if (v.status === "gone") { this.state.textContent = v.error; this.gone = true; this.stop.hidden = true; return; }
      const first = !this.view;
      if (v.columns !== this.columns) { // another length: draw anew
        this.columns = v.columns; this.canvas.width = v.columns; this.canvas.height = v.mels || 96; this.seen = 0;
        this.canvas.getContext("2d").fillRect(0, 0, v.columns, this.canvas.height);
        if (v.first) { this.view = v; return; }
      }
      if (v.first === this.seen && v.pixels) this.draw(v);
      this.view = v;
      if (first) { this.second.value = Math.max(0.5, Math.floor((at(v.rate, v.prompt) + at(v.rate, v.steps) / 2) * 2) / 2); this.line(); }
      this.show();
    }
    draw(v) {
      const bytes = Uint8Array.from(atob(v.pixels), (c) => c.charCodeAt(0)), n = bytes.length / v.mels;
      if (this.canvas.height !== v.mels) { this.canvas.height = v.mels; }
      const image = new ImageData(n, v.mels);
      for (let x = 0; x < n; x++) for (let y = 0; y < v.mels; y++) {
        const from = 4 * bytes[x * v.mels + y], to = 4 * ((v.mels - 1 - y) * n + x);
        for (let c = 0; c < 4; c++) image.data[to + c] = PALETTE[from + c];
      }
      this.canvas.getContext("2d").putImageData(image, this.seen, 0);
      this.seen += n;
    }
    show() {
      const v = this.view, over = this.finished();
      this.name.textContent = v.name; this.root.dataset.status = v.status;
      this.canvas.setAttribute("role", "img"); this.canvas.setAttribute("aria-label", `spectrogram of ${v.name}`);
      this.stop.hidden = over; this.over.hidden = !over; this.bar.hidden = over;
      this.bar.value = v.steps ? v.played / v.steps : 0;
      this.keep.textContent = v.kept ? "Kept ✓" : "Keep"; this.keep.setAttribute("aria-pressed", v.kept);
      this.remove.hidden = v.kept;
      this.seam.hidden = !v.prompt; this.seam.style.left = `${(100 * v.prompt) / v.rate / (this.length() || 1)}%`;
      this.second.max = at(v.rate, v.prompt + v.played);
      const s = v.settings, how = `${v.title} · temperature ${s.temp}` + (s.top_p < 1 ? ` · top-p ${s.top_p}` : "") + (s.top_k ? ` · top-k ${s.top_k}` : "") + (s.min_p ? ` · min-p ${s.min_p}` : "") + (s.floor ? ` · floor ${s.floor}` : "") + (s.entropy ? ` · entropy ${s.entropy}` : "") + ` · seed ${s.seed}`;
      const bits = v.bits === null ? "" : ` · ${v.bits.toFixed(2)} bits per sample`;
      const played = `${at(v.rate, v.played).toFixed(1)} s`;
      if (v.status === "waiting") this.state.textContent = v.position ? `Waiting: ${v.position} before it in the queue` : "Next in the queue";
      else if (v.status === "playing") {
        const speed = v.speed ? ` · ${v.speed.toFixed(1)} × real time` : "", left = v.left !== null ? ` · ${clock(v.left)} left` : "";
        const slow = v.ready ? "" : v.played ? " · slower than it sounds here: the sound begins once it can go on without a gap" : " · listening to what comes before";
        this.state.textContent = `Playing: ${played} of ${at(v.rate, v.steps).toFixed(0)} s${left}${speed}${slow}`;
      } else if (v.status === "failed") this.state.textContent = `It failed: ${v.error}`;
      else this.state.textContent = `${v.status === "whole" ? "" : "Stopped · "}${played} played${v.prompt ? ` after ${at(v.rate, v.prompt).toFixed(1)} s` : ""}${bits} · ${how}`;
      this.state.classList.toggle("wrong", v.status === "failed");
      if (over && (this.audio.ended || (this.audio.paused && !this.audio.currentTime))) this.whole();
    }
  }

  function card(id, place, first = true) {
    const host = document.getElementById(place), key = `${place} ${id}`;
    if (cards.has(key)) return cards.get(key);
    const c = new Card(id, place); c.key = key; cards.set(key, c);
    if (host) first ? host.prepend(c.root) : host.append(c.root);
    return c;
  }

  // Takes of one play, the most likely first once all are over.
  let plays = [];
  function rank() {
    for (const group of plays) {
      if (group.length < 2 || group.done || !group.every((c) => c.finished())) continue;
      const order = [...group].sort((a, b) => (a.view.bits ?? 99) - (b.view.bits ?? 99));
      order.forEach((c, i) => { c.rank.textContent = i ? `${i + 1}.` : "1. most likely"; });
      if (group.some((c) => !c.audio.paused)) continue; // moving what is heard would stop it: later
      group.done = true;
      const mark = document.createComment(""); group[0].root.before(mark);
      order.forEach((c) => mark.before(c.root));
      mark.remove();
    }
  }

  let timer = 0;
  async function look() {
    clearTimeout(timer);
    const open = [...cards.values()].filter((c) => !c.gone && !(c.finished() && c.seen >= c.columns));
    try {
      for (let i = 0; i < open.length; i += 8) {
        const part = open.slice(i, i + 8);
        const answer = await fetch(url("sound/look?" + part.map((c) => `take=${c.id}:${c.seen}`).join("&")));
        if (!answer.ok) break;
        (await answer.json()).forEach((v, k) => part[k].take(v));
      }
      rank();
    } catch { /* the app is away; it is asked again */ }
    timer = setTimeout(look, open.length ? LOOK : IDLE);
  }

  const DRAWN = ["temp", "top_p", "top_k", "min_p", "floor", "entropy"]; // how a sample is: left out, as the model says
  const SETTINGS = ["model", "seconds", "takes", "seed", ...DRAWN];
  const settings = (v) => ({ user, ...Object.fromEntries(SETTINGS.map((name, i) => [name, v[i]])) });
  const section = (v) => v.slice(SETTINGS.length); // what comes after: prompt, mode
  function began(found, place, listen = true) {
    say("");
    const group = found.takes.map((id) => card(id, place));
    [...group].reverse().forEach((c) => c.root.parentElement && c.root.parentElement.prepend(c.root));
    plays.push(group);
    if (listen) group[0].audio.play().catch(() => {}); // refused: the button is there
    look();
    return group;
  }
  const again = tried(async (id) => { began(await post("sound/play", { user, again: id }), "takes"); tab("Play"); });
  const tab = (name) => [...document.querySelectorAll("button[role=tab]")].find((b) => b.textContent.trim() === name)?.click();

  let asked = null; // what a card wants done with the settings of the page
  function act(what, with_) { asked = with_; (document.querySelector(`#do-${what} button`) || document.getElementById(`do-${what}`)).click(); }

  async function hits() {
    const host = document.getElementById("hits");
    if (!host) return;
    const found = await (await fetch(url("sound/kept"))).json();
    for (const c of [...cards.values()]) if (c.place === "hits" && !found.includes(c.id)) c.leave();
    for (const id of found) card(id, "hits", false);
    document.getElementById("no-hits").hidden = found.length > 0;
    look();
  }

  window.band = {
    user: () => user,
    asked: () => JSON.stringify(asked),
    play: tried(async (...v) => {
      const [prompt, mode] = section(v);
      const values = settings(v);
      if (mode === "Continue") {
        if (!prompt) throw new Error("choose a recording under Prompt first, or improvise");
        values.prompt = JSON.parse(prompt);
      }
      began(await post("sound/play", values), "takes");
    }),
    fork: tried(async (...v) => {
      const values = { ...settings(v), parent: asked.take, at: asked.at };
      began(await post("sound/play", values), "takes"); tab("Play");
    }),
    compare: tried(async (models, own, ...v) => {
      if (!models.length) throw new Error("choose at least one model");
      let listen = true;
      for (const model of models) {
        const values = { ...settings(v), model, takes: 1 }, [prompt, mode] = section(v);
        if (own) DRAWN.forEach((name) => delete values[name]);
        if (mode === "Continue" && prompt) values.prompt = JSON.parse(prompt);
        began(await post("sound/play", values), "compared", listen);
        listen = false;
      }
    }),
    hits: tried(hits),
    save: (text, title) => { // without the server: the text is here
      if (!text) return say("there is no text yet", true);
      const link = element("a", { href: URL.createObjectURL(new Blob([text + "\n"], { type: "text/plain" })), download: `${(title || "lyrics").replace(/[^\p{L}\p{N} ,()+-]+/gu, "-").trim().slice(0, 80) || "lyrics"}.txt` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    },
    say,
  };

  // Gradio may build a tab anew when it is shown: cards go back to where they belong.
  new MutationObserver(() => {
    for (const c of cards.values()) {
      if (c.gone || c.root.isConnected) continue;
      document.getElementById(c.place)?.append(c.root);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
  addEventListener("pagehide", () => navigator.sendBeacon(url("sound/leave"), new Blob([JSON.stringify({ user })], { type: "application/json" })));
  look();
})();
