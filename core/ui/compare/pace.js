// How late its timers are says how busy this browser is. One that falls behind asks the server to draw half as often,
// and again, up to 16 times less; without that a slow one would never come to the click on Stop.
const EVERY = 200; // milliseconds between two looks
let level = 0;
let late = 0; // milliseconds, smoothed
let changed = 0;
const look = (due) =>
  setTimeout(() => {
    const now = performance.now();
    late += (now - due - late) / 4;
    const quiet = now - changed;
    const next = late > 60 && quiet > 800 ? Math.min(4, level + 1) : late < 20 && quiet > 5000 ? Math.max(0, level - 1) : level;
    if (next !== level) {
      [level, changed] = [next, now];
      trigger("click", { level });
    }
    look(performance.now() + EVERY);
  }, EVERY);
look(performance.now() + EVERY);
