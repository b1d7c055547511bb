// The cards of the experiments: a title opens its text, a button runs it as well. The address names the lesson, so that it can be shared.
element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-lesson]");
  if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (!location.hash.startsWith("#c=")) history.replaceState(history.state, "", `#lesson=${target.dataset.lesson}`);
  trigger(target.dataset.run ? "run" : "choose", { name: target.dataset.lesson });
});
