// The grid of replies: a small cell opens its reply in Compare. Of each group one is reached by Tab, the others by arrow keys.
const cellOf = (event) => event.target.closest?.("button.cell");
element.addEventListener("click", (event) => {
  const cell = cellOf(event);
  if (cell) trigger("open", { cell: JSON.parse(cell.dataset.cell) });
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const cell = cellOf(event);
  if (!step || !cell) return;
  event.preventDefault();
  const cells = [...cell.parentElement.querySelectorAll("button.cell")];
  const next = cells[cells.indexOf(cell) + step];
  if (!next) return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
