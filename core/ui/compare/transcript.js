// The transcript in the browser. The server sends rows as escaped HTML and everything else as text; texts of people and
// models that arrive alone (a base reply, tokens) go in through textContent or appendData.
const $ = (selector, within = element) => within.querySelector(selector);
const [turns, end, notice, wayBack, banner, form, box, jump, card] = [".turns", ".end", ".notice", ".way-back", ".banner", "form", "textarea", ".jump", ".token-card"].map((name) => $(name));
const rows = () => [...turns.querySelectorAll(":scope > .turn:not(.shared)")]; // what came with a link was not run here
const rowAt = (turn) => $(`.turn:not(.shared)[data-turn="${turn}"]`, turns);
const rowOf = (node) => node.closest(".turn");
const turnOf = (node) => Number(rowOf(node).dataset.turn);
const count = () => { const last = rows().at(-1); return last ? turnOf(last) + 1 : 0; }; // the newest turns are always drawn
const from = (turn) => [...turns.children].filter((item) => Number(item.dataset.turn) >= turn);
const html = (text) => document.createRange().createContextualFragment(text);
const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// --- what is said --------------------------------------------------------------------------------------------

const say = (text, tone = "") => {
  notice.className = `notice ${tone}`;
  notice.replaceChildren(text ?? "");
};
// What was taken out of sight can be put back until something else is, or other turns are shown, whatever is said meanwhile.
const offerBack = (back) => {
  wayBack.hidden = !back;
  if (!back) return;
  wayBack.textContent = `Put back ${back.lost} turn${back.lost > 1 ? "s" : ""}`;
  Object.assign(wayBack.dataset, { turn: back.turn, versions: JSON.stringify(back.versions) });
};
// What was wrong may be right once something is changed; what offers a way out stays.
const forgive = () => busy || !notice.matches(".error") || $("button", notice) || say("");
document.addEventListener("input", forgive);
const sayBanner = (told, elsewhere) => {
  const last = elsewhere?.startsWith("Continue"); // goes when something new begins
  banner.className = `banner ${told?.[1] ?? (last ? "last" : "")}`;
  banner.replaceChildren(told?.[0] ?? "");
  if (elsewhere) banner.append(" ", make("button", { type: "button", id: "back", class: last ? "last" : "", "data-do": "elsewhere" }, elsewhere));
  banner.hidden = !told && !elsewhere;
};
const lost = ({ lost: count }) => `${count} ${count > 1 ? "turns were" : "turn was"} taken out of sight.`;
// What is asked and not answered yet survives a page that is left; see `ready`.
const remember = (prompt) => window.sameSeed.visitor.asking(prompt);

// --- following the running turn ---------------------------------------------------------------------------

let busy = false;
let running = null;
let bannerBefore = null;
// A button that can do nothing says why.
const able = () => {
  const nothing = !busy && !turns.children.length && banner.hidden;
  $(".new").disabled = nothing;
  $(".new").title = nothing ? "This chat is new already" : "";
};
const setBusy = (now) => {
  busy = now;
  able();
  form.classList.toggle("busy", busy);
  $(".send").textContent = busy ? "Stop" : "Compare";
};
const begin = (line) => {
  from(line.turn).forEach((item) => (item.hidden = true)); // what takes their place does so once it has ended
  turns.append(html(line.row));
  const row = turns.lastElementChild;
  row.classList.add("running");
  const side = (name) => ({ text: $(`[data-side=${name}] .text`, row), facts: $(`[data-side=${name}] .stands`, row) });
  running = { row, heads: null, caption: $(".caption", row), base: side("base"), post: side("post"), words: new Text(), blocks: [], thoughts: {} };
  running.base.text.append(running.words);
};
const drawing = {
  waiting: (text) => say(text),
  heads: (text) => {
    say("");
    if (text) running.row.before(html(text));
    if (text) running.heads = running.row.previousElementSibling;
  },
  caption: (text) => (running.caption.innerHTML = text),
  again: () => running.base.text.replaceChildren((running.words = new Text())),
  breaks: (marks) => running.words.before(html(marks)),
  base: (text) => running.words.appendData(text),
  thought: (thoughts) => Object.entries(thoughts).forEach(([side, [stays, rest]]) => {
    const fold = $(`[data-side=${side}] .thought`, running.row);
    fold.hidden = false;
    if (!running.thoughts[side]) $("div", fold).append((running.thoughts[side] = new Text()));
    running.thoughts[side].replaceData(stays, running.thoughts[side].length, rest);
  }),
  facts: (facts) => Object.entries(facts).forEach(([side, fact]) => (running[side].facts.innerHTML = fact)),
  post: ([first, stays, rest, ...more]) => {
    const { blocks, post } = running;
    const fresh = [(blocks[first] ?? "").slice(0, stays) + rest, ...more];
    blocks.splice(first, Infinity, ...fresh);
    while (post.text.children.length > first) post.text.lastElementChild.remove();
    post.text.append(html(fresh.join("")));
  },
  end: (row, line) => {
    const stay = from(line.turn + 1).filter((item) => item !== running?.row && Number(item.dataset.turn) <= line.turn + line.rest);
    leave();
    const fresh = html(row);
    const named = fresh.firstElementChild.matches(".heads");
    from(line.turn).forEach((item) => stay.includes(item) || (!named && item.matches("[data-again]")) || item.remove());
    const after = stay[0] ?? null;
    turns.insertBefore(fresh, after);
    foldAway();
    window.sameSeed.keep(line.keep);
    sayBanner(line.banner, line.elsewhere);
    if (line.banner) { atEnd = false; banner.scrollIntoView({ block: "center" }); }
    const aside = line.tone === "unseen" && line.back; // for screen readers alone
    say(line.back ? `${aside ? "" : line.said} ${lost(line.back)}`.trim() : line.said, aside ? "" : line.tone);
    if (line.back) offerBack(line.back);
    if (aside) notice.prepend(make("span", { class: "unseen" }, `${line.said} `));
    if (line.look) {
      say(line.look);
      notice.prepend(make("span", { class: "unseen" }, `${line.said} `));
    }
    remember(null);
    rest();
    look();
  },
  error: (text, { box: prompt, full }) => {
    leave();
    remember(null);
    if (prompt) box.value ||= prompt;
    fit();
    say(text, "error");
    if (full) notice.append(" ", make("button", { type: "button", "data-do": "carry" }, "New chat with the last turn"));
    rest();
  },
};
// In a chat that has grown long here, too, the earliest turns are no longer drawn.
const MOST = 60;
const foldAway = () => {
  const all = rows();
  if (!atEnd || all.length <= 2 * MOST) return;
  const first = all.at(-MOST);
  const gone = [...turns.children].filter((item) => Number(item.dataset.turn) < turnOf(first));
  if (!first.previousElementSibling.matches(".heads")) {
    const names = gone.findLast((item) => item.matches(".heads"));
    Object.assign(names.dataset, { turn: turnOf(first), again: "" });
    first.before(names);
  }
  gone.forEach((item) => item.nextElementSibling === first || item.remove());
  turns.prepend(make("li", { class: "gap", "data-turn": 0, "data-end": turnOf(first) }, make("button", { type: "button", "data-do": "earlier" }, `Show earlier turns (${turnOf(first)})`)));
};
const leave = () => {
  running?.row.remove();
  running?.heads?.remove();
  running = null;
};
// Whatever has happened, nothing runs any more.
const rest = () => {
  leave();
  turns.querySelectorAll("[hidden]").forEach((item) => item.parentElement === turns && (item.hidden = false));
  setBusy(false);
};
const follow = (line) => {
  if (line.row) begin(line);
  for (const [name, draw] of Object.entries(drawing)) if (name in line && (running || name === "end" || name === "error")) draw(line[name], line);
  if (atEnd && turns.children.length) toEnd();
};
document.addEventListener("told", ({ detail }) => follow(detail));

let atEnd = true;
const toEnd = () => requestAnimationFrame(() => scrollTo({ top: document.documentElement.scrollHeight }));
new IntersectionObserver(([seen]) => {
  atEnd = seen.isIntersecting;
  jump.hidden = atEnd || !turns.children.length || !element.offsetParent;
}, { rootMargin: "0px 0px 160px 0px" }).observe(end);
jump.onclick = () => { atEnd = true; toEnd(); };

// --- asking -------------------------------------------------------------------------------------------------

// Gradio says that an event is over after its last line was drawn: by then the next turn may have begun.
let begun = 0;
let over = 0;
let blind = false;
const setBlind = (on) => {
  blind = on;
  $(".blind-switch").setAttribute("aria-checked", String(on));
  say(on ? "Blind: the next replies come in an order that is drawn, and their models are named once you have marked the better one." : "");
};
let editing = null;
let asked = ""; // comes back into the box when it could not be run
const edit = (turn) => {
  editing = turn;
  $(".editing").hidden = turn === null;
  if (turn === null) return;
  $(".editing span").textContent = `Editing the prompt of turn ${turn + 1}; the turn as it is stays as a version.`;
  box.value = $(".words", rowAt(turn)).textContent;
  fit();
  box.focus();
};
const ask = (what) => {
  if (busy) return say("A reply is being written; stop it first, or wait until it has ended.", "error");
  setBusy(true);
  say("");
  edit(null);
  asked = what.prompt ?? "";
  if (!arrived) return (waiting = what); // which turns are there is not known yet
  const at = what.at ?? count();
  atEnd = at >= count() - 1;
  remember(asked);
  begun += 1;
  trigger("ask", { ...what, at, blind });
};
const fit = () => {
  if (CSS.supports("field-sizing", "content")) return;
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
};
form.onsubmit = (event) => {
  event.preventDefault();
  const prompt = box.value;
  if (busy && event.submitter) return trigger("halt");
  if (busy) return say("A reply is being written; stop it first, or wait until it has ended.", "error");
  if (!prompt.trim()) return say("Type a prompt first.", "error");
  ask({ prompt, at: editing });
  box.value = "";
  fit();
};
box.oninput = fit;
box.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit(); // without a submitter: Enter sends, and never stops
};
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!card.hidden) {
    const list = card.contains(document.activeElement) && chosen?.parentElement;
    hideCard();
    return list && list.focus();
  }
  if (editing !== null) { box.value = ""; return edit(null); }
  if (busy) trigger("halt");
});
$(".editing button").onclick = () => { box.value = ""; edit(null); };

// --- everything else: one action at a time, so that no answer can take another one's place -----------------

let calls = Promise.resolve();
let acted = () => {};
const act = (what, data = {}) => {
  calls = calls.then(() => new Promise((resolve) => { acted = resolve; trigger("act", { do: what, ...data }); }));
};
let adjusted = () => {};
const adjust = (data, then) => { adjusted = then; trigger("adjust", data); };
const unfold = (turn, name, text) => rowAt(turn) && $(".foot", rowAt(turn)).before(make("div", { class: name }, html(text)));
const fold = (turn, name, button, ask) => {
  const open = $(`.${name}`, rowAt(turn));
  button.setAttribute("aria-expanded", String(!open));
  open ? open.remove() : ask();
};
const answers = {
  heads: (text) => { $(".before").replaceChildren(html(text)); forgive(); },
  rows: (text, told) => {
    edit(null);
    offerBack(told.back);
    busy || rest(); // a turn that was begun meanwhile goes on behind what is there now
    const focused = element.contains(document.activeElement) && document.activeElement.dataset.do;
    turns.replaceChildren(html(text), ...[running?.heads, running?.row].filter(Boolean));
    atEnd = true;
    const row = told.turn === undefined ? null : rowAt(told.turn);
    row?.scrollIntoView({ block: "nearest" });
    if (row && focused) $(`[data-do="${focused}"]:not(:disabled)`, row)?.focus({ preventScroll: true });
    if (!row && text && element.offsetParent) toEnd();
    look();
  },
  box: (text) => { if (text !== null) box.value = text; fit(); },
  banner: (told, { elsewhere }) => { sayBanner(told, elsewhere); able(); },
  keep: (order) => window.sameSeed.keep(order),
  // Turns that were not drawn, in their place; what is in sight stays where it is.
  earlier: (text, { turn }) => {
    const old = $(`.gap[data-turn="${turn}"]`, turns);
    if (!old) return;
    const next = old.nextElementSibling;
    const row = next.matches(".heads") ? next.nextElementSibling : next;
    const at = row.getBoundingClientRect().top;
    const fresh = [...html(text).children];
    fresh.forEach((item) => (item.style.contentVisibility = "visible")); // until their height is known
    old.replaceWith(...fresh);
    if (next.matches("[data-again]")) next.remove();
    scrollBy({ top: row.getBoundingClientRect().top - at, behavior: "instant" });
    setTimeout(() => fresh.forEach((item) => (item.style.contentVisibility = "")), 500);
    ($(`.gap[data-turn="${turn}"] button`, turns) ?? box).focus({ preventScroll: true });
    look();
  },
  row: (text, { turn }) => {
    const old = from(turn).filter((item) => Number(item.dataset.turn) === turn && !item.matches(".gap"));
    if (!old.length) return;
    old[0].before(html(text));
    old.forEach((item) => item.remove());
    look();
  },
  marked: ([turn, mark]) => rowAt(turn)?.querySelectorAll("[data-do=mark]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.value === mark))),
  copy: (text) => window.sameSeed.deliver(JSON.stringify({ kind: "text", text })),
  parcel: (parcel) => window.sameSeed.deliver(JSON.stringify(parcel)),
  sent: (text, { turn }) => unfold(turn, "was-sent", text),
  code: (text, { turn }) => unfold(turn, "codes", text),
  tokens: (tokens, { given }) => reading?.isConnected && Object.entries(tokens).forEach(([side, list]) => showTokens(reading, side, list, given[side])),
  notice: (text) => busy || say(text),
  error: (text) => say(text, "error"),
  back: (back) => say(lost(back)),
};
const answer = (text) => {
  if (!text) return;
  const told = JSON.parse(text);
  for (const [name, take] of Object.entries(answers)) if (name in told) take(told[name], told);
  if ("rows" in told) ready();
  if (told.app !== $(".dock").dataset.app) say("The app was updated under this page; load the page again, and this chat is still here.", "error");
};
// Once the conversation of this page is there: what was asked meanwhile runs, and a prompt that was being answered when
// the page was left comes back.
let arrived = false;
let waiting = null;
const ready = () => {
  if (arrived) return;
  arrived = true;
  const what = waiting;
  waiting = null;
  rest();
  if (what) return ask(what);
  if (matchMedia("(hover: hover)").matches && element.offsetParent && document.activeElement === document.body) box.focus({ preventScroll: true });
  const left = window.sameSeed.visitor.asked();
  if (!left || box.value) return;
  box.value = left;
  fit();
  say("This prompt was interrupted before its reply; press Compare to ask again.");
};
setTimeout(ready, 20000); // an arrival that failed must not keep anybody from asking

const doing = {
  retry: (turn) => ask({ at: turn, again: true }),
  reseed: (turn, button) => adjust({ seed: Number(rowOf(button).querySelector(".caption b").textContent) + 1 }, () => ask({ at: turn, again: true })),
  reframe: (turn) => adjust({ framing_base: "transcript" }, () => ask({ at: turn, again: true })),
  edit,
  copy: (turn, button) => {
    const sides = $(".which-side", rowAt(turn));
    if (sides) return sides.remove();
    button.parentElement.append(make("span", { class: "which-side" }, make("button", { type: "button", "data-do": "copy-base" }, "base reply"), make("button", { type: "button", "data-do": "copy-post" }, "post-trained reply")));
  },
  "copy-base": (turn) => act("copy", { turn, side: "base" }),
  "copy-post": (turn) => act("copy", { turn, side: "post" }),
  link: (turn) => act("link", { turn }),
  receipt: (turn) => act("receipt", { turn }),
  mark: (turn, button) => act("mark", { turn, value: button.dataset.value }),
  sent: (turn, button) => fold(turn, "was-sent", button, () => act("sent", { turn })),
  code: (turn, button) => fold(turn, "codes", button, () => act("code", { turn, address: location.origin + location.pathname })),
  "copy-code": (turn, button) => answers.copy($("pre", button.closest(".code")).textContent),
  check: (turn, button) => {
    ask({ prompt: $(".words", rowOf(button)).textContent, at: turn });
    box.value = "";
  },
  version: (turn, button) => act("version", { turn: turn ?? Number(button.dataset.turn), versions: JSON.parse(button.dataset.versions) }),
  delete: (turn) => act("delete", { turn }),
  earlier: (turn, { parentElement: { dataset } }) => act("earlier", { turn: Number(dataset.turn), end: Number(dataset.end) }),
  branch: (turn, { dataset }) => {
    const [at, step, token] = [dataset.turn, dataset.step, dataset.token].map(Number);
    hideCard();
    ask({ at, branch: { side: dataset.side, step, token } });
  },
  handover: (turn, { dataset }) => {
    hideCard();
    ask({ at: Number(dataset.turn), handover: { tokens: Number(dataset.tokens) } });
  },
  dial: (turn, button) => ask({ at: turn, dial: { amount: Number($("input", button.parentElement).value) } }),
  carry: () => trigger("fresh", { carry: true }),
  elsewhere: () => window.sameSeed.visitor.elsewhere(),
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.do) doing[button.dataset.do](rowOf(button) ? turnOf(button) : null, button);
  if (button?.dataset.prompt) ask({ prompt: button.dataset.prompt });
  if (button?.matches(".new")) {
    if (busy) return say("A reply is being written; stop it first, or wait until it has ended.", "error");
    edit(null);
    trigger("fresh", {});
    box.focus();
  }
  if (button?.matches(".blind-switch")) setBlind(!blind);
  if (button?.matches(".lens-switch")) setLens(button.getAttribute("aria-checked") !== "true");
  const token = event.target.closest(".read-token");
  token ? showCard(token, true) : event.target.closest(".token-card") || hideCard();
});

// --- the lens in place ----------------------------------------------------------------------------------------

let lens = false;
let reading = null; // the row whose lens was asked for; one at a time, so that a click waits for no more than that
const wanted = new Set();
const readNext = () => {
  const next = [...wanted].find((row) => row.isConnected && !row.dataset.read);
  if (reading || !lens || !next) return;
  reading = next;
  next.dataset.read = "asked";
  act("lens", { turn: Number(next.dataset.turn) });
  calls.then(() => { reading = null; readNext(); });
};
const inSight = new IntersectionObserver((seen) => {
  seen.forEach(({ isIntersecting, target }) => (isIntersecting ? wanted.add(target) : wanted.delete(target)));
  readNext();
});
const look = () => {
  inSight.disconnect();
  element.querySelectorAll(".lens-switch").forEach((button) => button.setAttribute("aria-checked", String(lens)));
  if (lens) rows().forEach((row) => row.matches(".running, .blind") || inSight.observe(row));
};
const setLens = (on) => {
  lens = on;
  wanted.clear();
  rows().forEach((row) => row.dataset.read === "asked" && row !== reading && delete row.dataset.read);
  element.classList.toggle("lens-on", on);
  hideCard();
  look();
};
const NAMES = { base: "base", post: "post-trained" };
const shown = new WeakMap(); // the element of a token -> what is known about it
const visible = (text) => JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"') || "(part of a character)";
const showTokens = (row, side, list, given) => {
  if ($(`[data-side=${side}] .read-tokens`, row)) return;
  row.dataset.read = "done";
  const other = side === "base" ? "post" : "base";
  const node = make("div", { class: "read-tokens", role: "listbox", tabindex: "0", "aria-describedby": "token-card", "aria-label": `Tokens of the ${NAMES[side]} reply` });
  list.forEach(([text, place, base, post, topBase, topPost, drawn], step) => {
    const kind = step < given ? "given" : place === 1 ? "first" : place <= 3 ? "marginal" : "shifted";
    const token = make("span", { class: `read-token ${kind}`, role: "option", id: `token-${row.dataset.turn}-${side}-${step}`, "aria-selected": "false" }, text || "\u00b7");
    if (!text.trim()) token.setAttribute("aria-label", visible(text).replaceAll(" ", "space"));
    if (text.includes("\n")) token.dataset.newline = "";
    const first = (side === "base" ? topBase : topPost)[0]?.[0];
    shown.set(token, { text, place, first, other, side, step, given: step < given, share: { base, post }, top: other === "base" ? topBase : topPost, drawn });
    node.append(token);
  });
  $(`[data-side=${side}] .text`, row).after(node);
};
const percent = (logprob) => { const share = 100 * Math.exp(logprob); return share < 0.1 ? "<0.1%" : `${share.toFixed(share < 10 ? 1 : 0)}%`; };
const bar = (side, logprob) => make("div", { class: `bar ${side}` }, make("span", {}, side === "base" ? "Base" : "Post-trained"), make("i", { style: `--share:${Math.exp(logprob).toFixed(3)}` }), make("b", {}, percent(logprob)));
let chosen = null;
const hideCard = () => {
  card.classList.remove("pinned");
  chosen?.setAttribute("aria-selected", "false");
  chosen = null;
  card.hidden = true;
};
// A card that is pinned has buttons: both models go on from there with that token.
const showCard = (token, pinned = false) => {
  if (!pinned && card.classList.contains("pinned")) return;
  card.classList.toggle("pinned", pinned);
  chosen?.setAttribute("aria-selected", "false");
  (chosen = token).setAttribute("aria-selected", "true");
  const { text, place, first, other, side, step, given, share, top, drawn } = shown.get(token);
  const word = (each, id) => pinned
    ? make("button", { type: "button", "data-do": "branch", "data-turn": turnOf(token), "data-side": side, "data-step": step, "data-token": id, title: "Both models go on from here with this token" }, make("code", {}, visible(each)))
    : make("code", {}, visible(each));
  const list = make("ol", {}, ...top.map(([each, logprob, id]) => make("li", each === text ? { class: "same" } : {}, word(each, id), make("b", {}, percent(logprob)))));
  card.replaceChildren(
    make("code", { class: "which" }, visible(text)), given ? " given, not written" : "",
    bar("base", share.base), bar("post", share.post),
    ...(first === text || given ? [] : [make("p", {}, `The colour is about the ${NAMES[side]} model's first choice, `, make("code", {}, visible(first)), `: place ${place} for the other.`)]),
    make("p", {}, pinned ? `Go on from here with a choice of the ${NAMES[other]} model:` : `The ${NAMES[other]} model would choose`), list,
    make("p", {}, drawn ? "With the same luck it would have drawn " : "With the same luck it draws this too.", ...(drawn ? [word(...drawn)] : [])),
    ...(pinned ? [make("p", {}, make("button", { type: "button", "data-do": "handover", "data-turn": turnOf(token), "data-tokens": step + 1 }, `Hand over after ${step ? `${step + 1} tokens` : "1 token"}`), ": each model goes on from what the other wrote.")] : []),
  );
  card.hidden = false;
  const [at, size] = [token.getClientRects()[0], card.getBoundingClientRect()];
  const below = at.bottom + 8 + size.height < $(".dock").getBoundingClientRect().top;
  card.style.left = `${Math.max(8, Math.min(at.left, innerWidth - size.width - 8))}px`;
  card.style.top = `${Math.max(8, below ? at.bottom + 8 : at.top - size.height - 8)}px`;
};
turns.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "mouse") return;
  const token = event.target.closest(".read-token");
  token ? showCard(token) : leaveCard();
});
const leaveCard = () => card.classList.contains("pinned") || hideCard();
turns.addEventListener("pointerleave", leaveCard);
addEventListener("scroll", () => card.hidden || hideCard(), { passive: true });
turns.addEventListener("keydown", (event) => {
  const list = event.target.closest(".read-tokens");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (list && chosen && event.key === "Enter") {
    event.preventDefault();
    showCard(chosen, true);
    $("button", card).focus();
  }
  if (!list || !step) return;
  event.preventDefault();
  const all = [...list.children];
  const now = chosen ?? document.getElementById(list.getAttribute("aria-activedescendant")); // scrolling to a token hides its card
  const token = all[Math.max(0, Math.min(all.length - 1, all.indexOf(now) + step))];
  list.setAttribute("aria-activedescendant", token.id);
  token.scrollIntoView({ block: "nearest" });
  showCard(token);
});

document.querySelector(".skip")?.addEventListener("click", () => (element.offsetParent ? box : document.querySelector("[role=tab][aria-selected=true]")).focus());
able();
window.sameSeed.transcript = {
  answer,
  settled: () => { over += 1; if (over === begun) rest(); },
  acted: (failed) => {
    if (failed) say("Something went wrong in the app, and nothing was changed; try once more, or load the page again.", "error");
    setTimeout(() => acted());
  },
  adjusted: () => setTimeout(() => adjusted()),
  failed: () => {
    over += 1;
    if (asked) box.value ||= asked;
    remember(null);
    rest();
    fit();
    const why = window.sameSeed.connection.why();
    if (why) say(`${why} Your prompt is in the box again.`, "error");
    else say("Something went wrong in the app, and nothing was lost: your prompt is in the box again. Try once more, or load the page again.", "error");
  },
};
