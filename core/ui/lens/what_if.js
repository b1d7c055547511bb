// What is made appears below all that it can be made from: it comes into view once, when it begins.
let pressed = false;
document.addEventListener("click", ({ target }) => { pressed ||= Boolean(target.closest?.("#lens_what_if button, .lens-top-five button")); });
watch("value", () => {
  if (pressed) requestAnimationFrame(() => element.scrollIntoView({ block: "start" }));
  pressed = false;
});
