// The list of conversations that this browser keeps: what can be done with them, none of which the server is told.
const visitor = window.sameSeed.visitor;
const [list, said, keep] = ["ul", ".said", "input"].map((name) => element.querySelector(name));
const make = (tag, attributes, ...children) => {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
};
const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} KB` : `${(bytes / 1e6).toFixed(1)} MB`);
const row = ({ id, title, turns, asked, day, characters, current }) => {
  const button = (what, label) => {
    const made = make("button", { type: "button", textContent: label, ariaLabel: `${label} "${title}"` });
    made.dataset.do = what;
    return made;
  };
  const facts = [turns && `${turns} turn${turns === 1 ? "" : "s"}`, asked && "no reply yet", day, turns && size(characters)];
  const open = make("button", { type: "button", className: "open" }, make("b", { textContent: title, dir: "auto" }), make("span", { textContent: facts.filter(Boolean).join(" \u00b7 ") }));
  open.dataset.do = "open";
  const item = make("li", {}, open, make("p", {}, button("rename", "Rename"), ...(turns ? [button("export", "Export")] : []), button("delete", "Delete")));
  item.dataset.id = id;
  if (current) open.setAttribute("aria-current", "true");
  return item;
};
const draw = () => {
  list.replaceChildren(...visitor.all().map(row));
  keep.checked = !visitor.keeps();
};
const say = (text, undo) => {
  said.replaceChildren(text ?? "");
  if (!undo) return;
  const button = make("button", { type: "button", textContent: "Put back" });
  button.onclick = () => { undo(); say(""); draw(); };
  said.append(" ", button);
};
const take = (text) => {
  const wrong = visitor.take(text);
  if (wrong) say(wrong);
};
const doing = {
  open: (id) => {
    if (visitor.open(id) !== true) return;
    document.querySelector("[role=tab]").click(); // it is there already: on the first tab, behind this list on a phone
    if (innerWidth <= 768) document.querySelector(".sidebar.open .toggle-button")?.click();
  },
  rename: (id) => {
    const title = prompt("A name for this conversation", visitor.all().find((each) => each.id === id)?.title);
    if (title?.trim()) visitor.rename(id, title.trim());
    draw();
  },
  export: (id) => {
    const { title, text } = visitor.exported(id);
    window.sameSeed.deliver(JSON.stringify({ kind: "file", name: `${title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40)}.same-seed.json`, type: "application/json", text }));
  },
  delete: (id) => {
    const remove = () => { say("One conversation was forgotten.", visitor.remove(id)); draw(); };
    const { current, turns } = visitor.all().find((each) => each.id === id) ?? {};
    if (current && document.querySelector("#prompt.busy")) return say("A reply is being written; stop it first, or wait until it has ended.");
    if (!current || !turns) return remove();
    addEventListener("same-seed-kept", () => setTimeout(remove), { once: true }); // once a new chat has taken its place
    document.querySelector("#new").click();
  },
  import: () => {
    const file = make("input", { type: "file", accept: ".json,application/json" });
    file.onchange = async () => take(await file.files[0].text());
    file.click();
  },
  forget: () => {
    if (confirm("Forget every conversation in this browser? This cannot be taken back.")) visitor.forget();
  },
};
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) doing[button.dataset.do](button.closest("li")?.dataset.id);
});
keep.onchange = () => { visitor.keep(!keep.checked); draw(); };
addEventListener("same-seed-kept", ({ detail }) => { say(detail); draw(); });
addEventListener("storage", ({ key }) => key?.startsWith("same-seed-open/") || draw()); // that a tab is open changes nothing here
draw();
