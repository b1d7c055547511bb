() => {
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
    // A link that has been run has done its work: a reload then shows the conversation, not the link again.
    if (location.hash.startsWith("#c=") && document.querySelector("#banner [data-hash=drop]")) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    for (const placeholder of document.querySelectorAll(".placeholder-content")) placeholder.removeAttribute("role");
  };
  label();
  // Messages are escaped on the server; what is copied is the text itself again (see safe.py). Outside fenced code
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
  // What the server hands out goes to the clipboard or into a file here, in one click, and is stored nowhere else.
  const here = () => ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"].includes(location.hostname);
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      showForCopying(text); // no clipboard here (plain http, or a frame that may not)
    }
  };
  const showForCopying = (text) => {
    const dialog = document.createElement("dialog");
    dialog.className = "copy-by-hand";
    dialog.setAttribute("aria-label", "Copy this link");
    const field = Object.assign(document.createElement("textarea"), { readOnly: true, value: text, rows: 4 });
    field.setAttribute("aria-label", "Link");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
    close.onclick = () => dialog.close();
    dialog.onclose = () => dialog.remove();
    dialog.append("This browser does not let the page copy; copy the link by hand.", field, close);
    document.body.append(dialog);
    dialog.showModal();
    field.select();
  };
  const save = ({ name, type, text }) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  window.sameSeed = {
    deliver: (parcel) => {
      const sent = parcel ? JSON.parse(parcel) : {};
      if (sent.kind === "file") save(sent);
      if (sent.kind === "link") copy((sent.public && here() ? sent.public.replace(/\/*$/, "/") : location.origin + location.pathname) + sent.fragment);
    },
  };
  // Another link pasted into the address of an open page only changes the fragment, which loads nothing by itself.
  addEventListener("hashchange", () => /^#(c|lesson)=/.test(location.hash) && location.reload());
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
  document.documentElement.lang = "en";
  if (matchMedia("(max-width: 768px)").matches) document.querySelector(".sidebar.open .toggle-button")?.click();
}
