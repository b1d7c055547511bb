// Tables that sort by a column and show those rows that hold what is typed, wherever in `element` they come to stand.
const numberIn = (cell) => ("by" in cell.dataset ? parseFloat(cell.dataset.by) : NaN);
element.addEventListener("click", (event) => {
  const head = event.target.closest?.("table.sorts thead button")?.closest("th");
  if (!head) return;
  const body = head.closest("table").tBodies[0];
  const cells = [...body.rows].map((row) => row.cells[head.cellIndex]);
  const numbers = cells.some((cell) => !isNaN(numberIn(cell)));
  const first = numbers ? "descending" : "ascending";
  const second = numbers ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  const turned = order === "ascending" ? 1 : -1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  cells.sort((one, two) => {
    if (!numbers) return turned * one.textContent.localeCompare(two.textContent, undefined, { numeric: true });
    const [a, b] = [numberIn(one), numberIn(two)];
    return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : turned * (a - b); // what has no number comes last
  });
  body.append(...cells.map((cell) => cell.parentElement));
});
element.addEventListener("input", (event) => {
  const filter = event.target.closest?.(".filter");
  if (!filter) return;
  const rows = [...filter.parentElement.querySelector("table.sorts").tBodies[0].rows];
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  filter.querySelector("span").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
});
