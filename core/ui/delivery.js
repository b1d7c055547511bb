// What the server hands out goes to the clipboard or into a file here, in one click, and is stored nowhere else.
window.sameSeed.deliver = (() => {
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
    dialog.setAttribute("aria-label", "Copy this");
    const field = Object.assign(document.createElement("textarea"), { readOnly: true, value: text, rows: 4 });
    field.setAttribute("aria-label", "What is copied");
    const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
    close.onclick = () => dialog.close();
    dialog.onclose = () => dialog.remove();
    dialog.append("This browser does not let the page copy; copy it by hand.", field, close);
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
  return (parcel) => {
    const sent = parcel ? JSON.parse(parcel) : {};
    if (sent.kind === "file") save(sent);
    if (sent.kind === "text") copy(sent.text);
    if (sent.kind === "link") copy((sent.public && here() ? sent.public.replace(/\/*$/, "/") : location.origin + location.pathname) + sent.fragment);
  };
})();
