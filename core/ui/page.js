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
    for (const placeholder of document.querySelectorAll(".placeholder-content")) placeholder.removeAttribute("role");
  };
  label();
  // Messages are escaped on the server; what is copied is the text itself again (see safe_plain in render.py).
  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(text.replaceAll("&#x5B;", "[").replaceAll("&#x3C;", "<").replaceAll("&#x26;", "&"));
  }
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
  document.documentElement.lang = "en";
  if (matchMedia("(max-width: 768px)").matches) document.querySelector(".sidebar.open .toggle-button")?.click();
}
