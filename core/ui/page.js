document.documentElement.lang = "en";
if (matchMedia("(max-width: 768px)").matches || document.documentElement.matches(".embedded")) document.querySelector(".sidebar.open .toggle-button")?.click();
// On a phone the list of conversations lies in the drawer, below every setting.
document.addEventListener("click", ({ target }) => {
  if (!target.closest?.(".to-conversations")) return;
  document.querySelector(".sidebar:not(.open) .toggle-button")?.click();
  const list = document.querySelector("#conversations");
  list.scrollIntoView();
  list.querySelector("button").focus({ preventScroll: true });
});
