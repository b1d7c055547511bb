// The rows of turns: one listener for all buttons; what was unfolded and where the focus was survive a new rendering.
let unfolded = false;
let focused = null;
const key = (button) => `[data-do="${button.dataset.do}"][data-turn="${button.dataset.turn}"]` + (button.dataset.value ? `[data-value="${button.dataset.value}"]` : "");
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button) return;
  focused = key(button);
  const { do: what, turn, value } = button.dataset;
  if (what === "mark") trigger("mark", { turn: Number(turn), value });
  else trigger("deliver", { do: what, turn: Number(turn) });
});
element.addEventListener("toggle", (event) => { unfolded = event.target.open; }, true);
watch("value", () => {
  const fold = element.querySelector("details");
  if (fold && unfolded) fold.open = true;
  if (focused && document.activeElement === document.body) element.querySelector(focused)?.focus();
});
