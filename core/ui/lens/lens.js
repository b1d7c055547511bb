// The token lens in the browser. The server appends lines of JSON to one string; each new line becomes one
// more token. Every text of a model or a person goes in through textContent.
const $ = (name) => element.querySelector(name);
const [text, card, plot, legend, figures, parting, old] = [".lens-text", ".lens-card", ".lens-plot", ".lens-legend", ".lens-figures", ".lens-parting", ".lens-old"].map($);
const SVG = "http://www.w3.org/2000/svg";
const FULL = { kl: 4, ratio: 4 }; // nats at which the colour is at its strongest
const COLOURS = {
  rank: "For the other model, the writer's first choice here is its <i class='unshifted'>first</i> <i class='marginal'>second or third</i> <i class='shifted'>none of these</i>",
  kl: "How much post-training changed the choice here: not at all <i class='scale kl'></i> by 4 nats or more",
  ratio: "Against the base, this token is <i class='scale ratio'></i> 4 nats less likely, as likely, 4 nats likelier",
};
let head, tokens, summary, chosen, consumed, colour = "rank";

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const term = (word) => make("small", { class: "term" }, word); // the field's word, after plain ones
const nats = (value) => `${value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(2)}`;
const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`);
const visible = (string) => JSON.stringify(string).slice(1, -1).replaceAll('\\"', '"') || "(part of a character)";
const name = { base: "Base", post: "Post-trained" };

// --- tokens ---------------------------------------------------------------------------------------------

const clear = () => {
  [tokens, summary, chosen, consumed] = [[], null, null, 0];
  for (const part of [text, card, plot, figures]) part.replaceChildren();
  text.removeAttribute("aria-activedescendant");
  element.firstElementChild.dataset.state = "empty";
  parting.hidden = true;
};

// The first token that was written, not given, at which the two draw differently; null where there is none, or not yet.
const partingStep = () => {
  const step = summary ? tokens.findIndex(({ step, drawn }) => step >= head.given && drawn.base[0] !== drawn.post[0]) : -1;
  return step < 0 ? null : step;
};

const paint = (token) => {
  const { span, rank, kl, ratio } = token;
  span.className = `token${token.step === partingStep() ? " parts" : ""}`;
  span.style.removeProperty("--strength");
  if (token.step < head.given) return span.classList.add("given");
  if (colour === "rank") {
    span.classList.add(rank === 1 ? "unshifted" : rank <= 3 ? "marginal" : "shifted");
    return;
  }
  const value = colour === "kl" ? kl : ratio;
  span.classList.add(colour, value < 0 ? "lower" : "higher");
  span.style.setProperty("--strength", Math.min(1, Math.abs(value) / FULL[colour]).toFixed(3));
};

const add = (values) => {
  const [id, string, rankBase, rankPost, rank, base, post, kl, js, agreement, drawnBase, drawnPost, topBase, topPost] = values;
  const step = tokens.length;
  const token = { step, id, string, base, post, kl, js, agreement, drawn: { base: drawnBase, post: drawnPost } };
  Object.assign(token, { ranks: { base: rankBase, post: rankPost }, top: { base: topBase, post: topPost } });
  Object.assign(token, { ratio: post - base, rank });
  token.span = make("span", { role: "option", id: `${head.name}-${step}`, "aria-selected": "false" });
  token.span.dataset.step = step;
  token.span.textContent = string || "\u00b7";
  if (!string.trim()) token.span.setAttribute("aria-label", string ? visible(string).replaceAll(" ", "space ").trim() : "part of a character");
  if (string.includes("\n")) token.span.dataset.newline = "";
  tokens.push(token);
  paint(token);
  return token.span;
};

// --- what is shown of one token ---------------------------------------------------------------------------

const bar = (side, share) => make("span", { class: `lens-bar ${side}` }, make("span", { style: `width:${(100 * share).toFixed(1)}%` }));

const opinion = (token, side) => {
  const share = Math.exp(token[side]);
  const rank = `place ${token.ranks[side].toLocaleString("en")}`;
  return make("div", { class: `lens-opinion ${side}` }, make("span", {}, name[side]), bar(side, share), make("b", {}, percent(share)), make("small", {}, rank));
};

// What the model draws here with the same luck comes first, whether it is among the likeliest or not.
const candidates = (token, side) => {
  const list = make("ol", { class: `lens-top-five ${side}` });
  const [drawn, ...rest] = [token.drawn[side], ...token.top[side].filter(([id]) => id !== token.drawn[side][0])];
  const logprobOf = new Map(token.top[side].map(([id, , logprob]) => [id, logprob]));
  for (const [id, string] of [drawn, ...rest]) {
    const share = logprobOf.has(id) ? percent(Math.exp(logprobOf.get(id))) : "";
    const said = `${id === drawn[0] ? "drawn with this luck" : ""}${share && id === drawn[0] ? ", " : ""}${share ? `${share} for the ${name[side].toLowerCase()} model` : ""}`;
    const button = make("button", { type: "button", "aria-label": `Branch here with ${visible(string)}, ${said}` });
    button.append(make("code", {}, visible(string)), make("b", {}, id === drawn[0] ? `drawn ${share}`.trim() : share));
    if (id === token.id) button.classList.add("written");
    button.onclick = () => trigger("branch", { turn: head.turn, of: head.of, side: head.side, step: token.step, token: id });
    list.append(make("li", {}, button));
  }
  return make("div", {}, make("h3", {}, `${name[side]} would choose`), list);
};

const capital = (sentence) => sentence[0].toUpperCase() + sentence.slice(1);
const preference = (ratio) => {
  const size = Math.abs(ratio) < 0.1 ? "" : Math.abs(ratio) < 1 ? "slightly " : Math.abs(ratio) < 3 ? "" : "strongly ";
  if (Math.abs(ratio) < 0.1) return "post-training left this token as likely as it was";
  return `post-training ${size}${ratio > 0 ? "prefers" : "avoids"} this token`;
};

const luck = (token) => {
  const same = token.drawn.base[0] === token.drawn.post[0];
  const both = `With shared luck both draw the same token here with probability ${percent(token.agreement)}`;
  return same ? `${both}, and they do.` : `${both}; this time the base draws ${visible(token.drawn.base[1])} and the post-trained model ${visible(token.drawn.post[1])}.`;
};

// In Compare the other model was asked under a framing of its own, so it began otherwise there.
const parts = (token) => {
  const other = head.side === "base" ? "post" : "base";
  const read = head.context === "identical" ? ", reading the same text," : "";
  const compare = head.context === "identical" ? " In Compare it read another text." : "";
  return make("p", { class: "lens-parts" }, `Here they part: the ${name[other].toLowerCase()} model${read} would have written `, make("code", {}, visible(token.drawn[other][1])), `.${compare}`);
};

const choose = (step, scroll = true) => {
  const token = tokens[Math.max(0, Math.min(tokens.length - 1, step))];
  if (!token) return;
  if (chosen) chosen.span.setAttribute("aria-selected", "false");
  chosen = token;
  token.span.setAttribute("aria-selected", "true");
  text.setAttribute("aria-activedescendant", token.span.id);
  if (scroll) token.span.scrollIntoView({ block: "nearest" });
  card.replaceChildren(
    make("code", { class: "lens-token" }, visible(token.string)),
    make("p", { class: "muted" }, `Token ${token.step + 1} of ${tokens.length}${token.step < head.given ? ", given, not written" : ""}`),
    ...(token.step === partingStep() ? [parts(token)] : []),
    opinion(token, "base"),
    opinion(token, "post"),
    ...(token.step < head.given || token.top[head.side][0][1] === token.string ? [] : [make("p", { class: "muted" }, "The first colour is about the writer's first choice, ", make("code", {}, visible(token.top[head.side][0][1])), `: place ${token.rank.toLocaleString("en")} for the other model.`)]),
    make("p", {}, `${capital(preference(token.ratio))}: `, make("b", {}, `${token.ratio > 0 ? "+" : ""}${nats(token.ratio)} nats`), " ", term("Log-ratio")),
    make("p", { class: "muted" }, `The whole choice here changed by ${nats(token.kl)} nats `, term("KL divergence"), `, ${nats(token.js)} taking both models alike `, term("Jensen-Shannon divergence")),
    make("p", { class: "muted" }, luck(token)),
    make("h2", {}, "Branch: go on from here with another token"),
    make("div", { class: "lens-tops" }, candidates(token, "base"), candidates(token, "post")),
  );
  drawCursor();
};

// --- KL by position ---------------------------------------------------------------------------------------

const shape = (tag, attributes) => {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

const drawPlot = () => {
  if (!tokens.length) return;
  const most = Math.max(1, ...tokens.map((token) => token.kl));
  const mean = tokens.reduce((sum, token) => sum + token.kl, 0) / tokens.length;
  const path = tokens.map(({ kl }, step) => `M${step + 0.12} 100V${(100 - (100 * kl) / most).toFixed(2)}h.76V100z`).join("");
  const said = `How much post-training changed each choice (KL divergence): mean ${nats(mean)} nats, at most ${nats(most)}`;
  const svg = shape("svg", { viewBox: `0 0 ${tokens.length} 100`, preserveAspectRatio: "none", role: "img", "aria-label": said });
  svg.append(shape("rect", { class: "cursor", y: 0, width: 1, height: 100, x: -2 }), shape("path", { d: path }));
  svg.onclick = (event) => {
    const box = svg.getBoundingClientRect();
    choose(Math.floor(((event.clientX - box.left) / box.width) * tokens.length));
  };
  plot.replaceChildren(
    make("h2", {}, "How much post-training changed each choice ", term("KL divergence")),
    make("div", { class: "lens-axes" }, make("span", { class: "y" }, `${nats(most)} nats`), svg, make("span", {}, "Token 1"), make("span", { class: "last" }, tokens.length)),
  );
  drawCursor();
};

const drawCursor = () => plot.querySelector(".cursor")?.setAttribute("x", chosen ? chosen.step : -2);

// --- the whole reply ----------------------------------------------------------------------------------------

const figure = (title, word, value, note) => make("div", {}, make("dt", {}, title, " ", term(word)), make("dd", {}, value, ...(note ? [make("small", {}, note)] : [])));

const drawFigures = () => {
  const { shares, mean_kl, mean_kl_first_5, expected_agreement, observed_agreement } = summary;
  const parted = partingStep();
  const divergence = parted === null ? "never" : `token ${parted + 1}`;
  figures.replaceChildren(
    figure("Both have the same first choice", "Unshifted", percent(shares.unshifted)),
    figure("It is the other model's second or third", "Marginal", percent(shares.marginal)),
    figure("It is further down", "Shifted", percent(shares.shifted)),
    figure("How much a choice changed", "KL divergence", `${nats(mean_kl)} nats`, `on average; first five tokens ${nats(mean_kl_first_5)}`),
    figure("Where the other model draws another token", "Divergence", divergence),
    figure("Both draw the same with shared luck", "Agreement", percent(observed_agreement), `expected ${percent(expected_agreement)}`),
  );
};

// --- what arrives and what is done ----------------------------------------------------------------------------

const receive = () => {
  const value = props.value || "";
  const first = value.slice(0, value.indexOf("\n"));
  if (!value || first !== head?.line) {
    clear();
    head = value ? { ...JSON.parse(first), line: first } : null;
    consumed = first.length + 1;
    if (!value) return;
    element.firstElementChild.dataset.state = "reading";
    age();
    text.setAttribute("aria-label", `Tokens of the ${name[head.side].toLowerCase()} reply`);
  }
  const end = value.lastIndexOf("\n") + 1;
  const lines = value.slice(consumed, end).split("\n").filter(Boolean).map((line) => JSON.parse(line));
  consumed = end;
  const fresh = document.createDocumentFragment();
  for (const line of lines) Array.isArray(line) ? fresh.append(add(line)) : (summary = line);
  text.append(fresh);
  if (lines.length) drawPlot();
  if (summary) {
    element.firstElementChild.dataset.state = "done";
    drawFigures();
    const parted = partingStep();
    parting.hidden = parted === null;
    if (!parting.hidden) tokens[parted].span.classList.add("parts");
    if (chosen?.step === parted) choose(chosen.step, false);
  }
  if (!chosen && tokens.length) choose(0, false);
};

const recolour = (next) => {
  colour = next;
  for (const button of element.querySelectorAll("[data-colour]")) {
    button.setAttribute("aria-checked", String(button.dataset.colour === colour));
    button.tabIndex = button.dataset.colour === colour ? 0 : -1;
  }
  legend.innerHTML = COLOURS[colour]; // written above, nobody's text
  tokens.forEach(paint);
};

text.onclick = (event) => {
  const span = event.target.closest("[data-step]");
  if (span) choose(Number(span.dataset.step), false);
};
text.onkeydown = (event) => {
  const at = chosen ? chosen.step : 0;
  const moves = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, ArrowDown: () => below(1), ArrowUp: () => below(-1), Home: () => 0, End: () => tokens.length - 1 };
  if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  choose(moves[event.key]());
};
// The token that stands nearest in the line above or below.
const below = (direction) => {
  if (!chosen) return 0;
  const from = chosen.span.getBoundingClientRect();
  let best = chosen.step, distance = Infinity, line = null;
  for (let step = chosen.step + direction; tokens[step]; step += direction) {
    const box = tokens[step].span.getBoundingClientRect();
    if (Math.abs(box.top - from.top) < from.height / 2) continue;
    if (line !== null && Math.abs(box.top - line) > from.height / 2) break;
    line = line ?? box.top;
    if (Math.abs(box.left - from.left) < distance) [best, distance] = [step, Math.abs(box.left - from.left)];
  }
  return best;
};
parting.onclick = () => { choose(partingStep()); text.focus({ preventScroll: true }); };
// What is chosen beside a reading may no longer be what was read.
const CONTEXTS = { identical: "the same token ids", own: "its own framing" };
let asked = null;
const age = () => {
  const fits = !head || !asked || (asked.turn === head.turn && asked.side === head.side && asked.context === head.context);
  element.firstElementChild.toggleAttribute("data-old", !fits);
  old.hidden = fits;
  old.textContent = fits ? "" : `This is the ${name[head.side].toLowerCase()} reply of turn ${head.turn + 1}, of which the other model read ${CONTEXTS[head.context]}; press Read this reply for what is chosen now.`;
};
window.sameSeed.lens = { asked: (turn, side, context) => { asked = { turn, side, context }; age(); } };
for (const button of element.querySelectorAll("[data-colour]")) button.onclick = () => recolour(button.dataset.colour);
element.querySelector("[role=radiogroup]").onkeydown = (event) => {
  const order = Object.keys(COLOURS);
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  recolour(order[(order.indexOf(colour) + move + order.length) % order.length]);
  element.querySelector(`[data-colour=${colour}]`).focus();
};

clear();
recolour("rank");
receive();
watch("value", receive);
