// Gradio gives every log the same name and lets it interrupt; name the panes and let the status line speak instead.
const names = { chat_base: "Base model conversation", chat_post: "Post-trained model conversation" };
const label = () => {
  for (const [id, name] of Object.entries(names)) {
    for (const log of document.querySelectorAll(`#${id} [role=log]`)) {
      log.setAttribute("aria-label", name);
      log.setAttribute("aria-live", "off");
      log.setAttribute("tabindex", "0");
    }
  }
  for (const placeholder of document.querySelectorAll(".placeholder-content")) placeholder.removeAttribute("role");
};
label();
// Messages are escaped on the server; what is copied is the text itself again (see escaping.py). Outside fenced code
// every backtick of the text is an entity and every code span an element; inside it nothing is escaped.
const written = (text) => {
  let ticks = "";
  return text.replace(
    /(`{3,}|~{3,})[^]*?(?:\1|$(?![^]))|<code class="ticks-(\d+)">|<\/code>|&#x([0-9A-F]+);|(?<=^|\n) {13}\n/g,
    (found, fence, count, entity) => {
      if (fence) return found;
      if (entity) return character(entity);
      if (count) return (ticks = "`".repeat(Number(count)));
      return found === "</code>" ? ticks : "";
    },
  );
};
const character = (entity) => String.fromCodePoint(parseInt(entity, 16));
const plain = (text) => text.replace(/&#x([0-9A-F]+);/g, (_, entity) => character(entity));
const clipboard = navigator.clipboard;
if (clipboard) {
  let from = null; // where the last click was: what a code block copies is what it shows, and the base side has no Markdown
  addEventListener("click", (event) => (from = event.target), true);
  const write = clipboard.writeText.bind(clipboard);
  clipboard.writeText = (text) => {
    if (from?.closest?.(".copy_code_button")) return write(text);
    return write(from?.closest?.("#chat_base") ? plain(text) : written(text));
  };
}
new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
