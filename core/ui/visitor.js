// What this browser keeps of its visitor's conversations, and which of them a tab shows.
//
// An entry of the browser's history names its conversation (history.state.conversation), so back, forward and a
// reload show what they showed. A conversation belongs to the tab that writes it: any other one that comes upon it while
// that one is open, a duplicated tab or a new one that continues the last conversation, gets a copy of its own. What no
// open tab holds goes over to the one that opens it.
window.sameSeed.visitor = (() => {
  const PREFIX = "same-seed/";
  const MOST = 50; // conversations in this browser; the ones that nothing was asked in for the longest go first

  // Storage that a browser refuses (a frame of a stranger, private modes) costs the keeping and nothing else.
  const reading = (storage, key) => { try { return JSON.parse(window[storage].getItem(key)); } catch { return null; } };
  const writing = (storage, key, value) => { try { window[storage].setItem(key, JSON.stringify(value)); return true; } catch { return false; } };
  const removing = (storage, key) => { try { window[storage].removeItem(key); } catch { /* nothing is there */ } };
  const fresh = () => Array.from(crypto.getRandomValues(new Uint32Array(3)), (part) => part.toString(36)).join("");

  // This tab. "resting" is only there between two pages of one tab; a tab that was duplicated from a living one lacks it.
  const TAB = `${PREFIX}tab`;
  const before = reading("sessionStorage", TAB);
  const tab = { id: before?.resting ? before.id : fresh(), conversation: before?.conversation ?? null };
  const rest = (resting) => writing("sessionStorage", TAB, { ...tab, resting });
  // Every tab holds a lock of its own, which its end gives back however it ends; which ones are held is asked once, when a page
  // begins. Where there are no locks (an address that is neither https nor this machine) every tab says that it is open: that it
  // was closed, where no page is told so, shows in its silence. The clock of a tab that is out of sight may run once a minute.
  // One that was silent for longer and comes back finds out when it writes (see `mine`).
  const OPEN = "same-seed-open/";
  const SILENT = 200_000;
  let held = null; // the names of the locks
  let doubted = null; // what was copied before they were known: {id, owner, copy}
  navigator.locks?.query().then((locks) => {
    held = new Set(locks.held.map((lock) => lock.name));
    navigator.locks.request(OPEN + tab.id, () => new Promise(() => {})).catch(() => {}); // until this page ends
    takeOver();
  }, () => {});
  const isOpen = (id) => held ? held.has(OPEN + id) : Math.abs(Date.now() - (reading("localStorage", OPEN + id) ?? 0)) < SILENT;
  const sayOpen = () => writing("localStorage", OPEN + tab.id, Date.now());
  addEventListener("pagehide", () => { rest(true); removing("localStorage", OPEN + tab.id); });
  addEventListener("pageshow", () => { rest(false); sayOpen(); });
  rest(false);
  sayOpen();
  setInterval(sayOpen, 30_000);
  try {
    for (const key of Object.keys(localStorage)) key.startsWith(OPEN) && !isOpen(key.slice(OPEN.length)) && removing("localStorage", key);
  } catch { /* nothing is there */ }

  // --- the conversations: {owner, used, from, kept, title, asked}; one in which nothing was asked yet is gone with its tab
  // `used` is when the last turn came, `title` is there once somebody gave it one, `asked` is the prompt that has no reply
  // yet. On a shared computer all of them are gone with their tabs.

  const NOT_KEPT = "same-seed-not-kept";
  const keeps = () => !reading("localStorage", NOT_KEPT);
  const tell = (sentence) => dispatchEvent(new CustomEvent("same-seed-kept", { detail: sentence }));
  // What is in sessionStorage alone was written last: a conversation that is kept for good is taken out of there.
  const find = (id) => (id && (reading("sessionStorage", PREFIX + id) ?? reading("localStorage", PREFIX + id))) || null;
  const change = (id, what) => ["localStorage", "sessionStorage"].forEach((where) => {
    const stored = reading(where, PREFIX + id);
    if (stored) writing(where, PREFIX + id, { ...stored, ...what });
  });
  const turns = (kept) => { try { return JSON.parse(kept).records.length; } catch { return 0; } };
  const others = () => {
    const found = [];
    try {
      for (const key of Object.keys(localStorage)) {
        const stored = key.startsWith(PREFIX) && key !== PREFIX + tab.conversation ? reading("localStorage", key) : null;
        if (stored) found.push({ id: key.slice(PREFIX.length), ...stored });
      }
    } catch { /* none can be read */ }
    return found.sort((one, other) => other.used - one.used);
  };
  const isListed = ({ kept, asked }) => turns(kept) > 0 || asked;
  const last = () => others().find(isListed) ?? null;
  const store = (id, { kept, from = null, ran = true, title, asked, used = Date.now() }) => {
    const stored = { owner: tab.id, used, from, kept, title, asked };
    if (!ran || !keeps()) {
      writing("sessionStorage", PREFIX + id, stored);
      removing("localStorage", PREFIX + id);
      return tell("");
    }
    const old = others();
    const forgotten = [];
    const forget = () => {
      const { id: oldest, ...lost } = old.pop();
      removing("localStorage", PREFIX + oldest);
      forgotten.push([oldest, lost]);
    };
    while (old.length >= MOST) forget();
    let done = writing("localStorage", PREFIX + id, stored);
    while (!done && old.length) {
      forget();
      done = writing("localStorage", PREFIX + id, stored);
    }
    if (done) removing("sessionStorage", PREFIX + id);
    else forgotten.forEach(([oldest, lost]) => writing("localStorage", PREFIX + oldest, lost)); // it would not have fitted anyway
    if (!done) tell("This browser has no room left for this conversation, or keeps nothing; export it before you leave.");
    else tell(forgotten.length ? `To make room the ${forgotten.length > 1 ? `${forgotten.length} oldest conversations were` : "oldest conversation was"} forgotten.` : "");
  };

  // Whether an address means to be a link to a comparison, sound or not: the server says what is wrong with it.
  const means = (hash) => /#c(=|%(25)*3d|$)/i.test(hash);

  // --- the entry of the history that is shown --------------------------------------------------------------------------

  const bare = () => location.pathname + location.search;
  const enter = (id, { push = false, address = bare() + location.hash } = {}) => {
    tab.conversation = id;
    rest(false);
    history[push ? "pushState" : "replaceState"]({ ...history.state, conversation: id }, "", address);
  };
  const owned = (id) => {
    const stored = find(id);
    if (!stored || stored.owner === tab.id) return id;
    if (!isOpen(stored.owner)) {
      change(id, { owner: tab.id });
      return id;
    }
    const copy = fresh();
    store(copy, stored);
    if (navigator.locks && !held) doubted = { id, owner: stored.owner, copy };
    return copy;
  };
  // A page begins before the locks are known. What it copied for fear of a tab that turns out to have ended is that tab's no more.
  const takeOver = () => {
    const { id, owner, copy } = doubted ?? {};
    if (!id || isOpen(owner) || tab.conversation !== copy || find(id)?.owner !== owner) return;
    for (const where of ["localStorage", "sessionStorage"]) {
      const stored = reading(where, PREFIX + copy);
      if (stored && writing(where, PREFIX + id, stored)) removing(where, PREFIX + copy);
    }
    enter(id);
    tell("");
  };
  // What this tab is about to write into, as it is kept. Where another tab has it by now (both took it over at the same
  // moment, or this one slept for long), this one goes on in a copy.
  const mine = () => {
    const stored = find(tab.conversation);
    if (stored && stored.owner !== tab.id) enter(fresh());
    return stored;
  };
  // Another entry, or another link, lesson or study typed into the address of an open page: show what belongs to it.
  addEventListener("popstate", () => {
    if (history.state?.conversation !== tab.conversation || means(location.hash) || /^#(lesson|study)=/.test(location.hash)) location.reload();
  });

  const show = (id) => {
    if (!id) return;
    enter(id, { push: true, address: bare() });
    location.reload();
  };
  const named = ({ title, kept, asked }) => {
    let prompt = asked ?? "A conversation";
    try { prompt = JSON.parse(kept).records[0].turn.prompt; } catch { /* it has none yet */ }
    return title ?? prompt.trim().replace(/\s+/g, " ").slice(0, 80);
  };
  const day = (time) => new Date(time).toLocaleDateString("en", { day: "numeric", month: "short" });
  const continuing = (stored) => {
    const name = stored ? named(stored) : "";
    return name && `\u201c${name.length > 40 ? `${name.slice(0, 39)}\u2026` : name}\u201d, ${day(stored.used)}`;
  };

  let brought = null; // with the page, told to whatever event comes first
  return {
    arrive(most) {
      if (brought) return brought;
      const entry = history.state?.conversation;
      const link = !entry && means(location.hash); // that has not been opened yet
      const id = owned(entry ?? tab.conversation ?? fresh());
      if (link) tab.conversation = id;
      else enter(id);
      const stored = find(id);
      const own = link ? turns(stored?.kept) > 0 : turns(find(stored?.from)?.kept) > 0;
      return brought = { kept: stored?.kept ?? null, address: location.hash.slice(0, most), fresh: link, own, last: continuing(last()) };
    },
    // What the server says about the conversation: "show" it as it is kept, "keep" it, "begin" another one in a new
    // entry of the history, or in the one that is here. Returns what an action has to bring along.
    obey(order) {
      const { do: what, kept, ran, aside } = order ?? {};
      if (!what) return order;
      const from = aside && turns(find(tab.conversation)?.kept) > 0 ? tab.conversation : null;
      if (what === "begin") {
        const leaving = turns(find(tab.conversation)?.kept) > 0 || location.hash !== "";
        enter(fresh(), { push: leaving, address: bare() });
      }
      if (what === "begin_here") enter(fresh());
      if (what === "begin" || what === "begin_here") store(tab.conversation, { kept, from, ran });
      if (what === "keep") {
        const { from: whence, title } = mine() ?? {};
        store(tab.conversation, { kept, from: whence, title, ran });
        // A link that has been run has done its work: a reload then shows the conversation, not the link again.
        if (ran && means(location.hash)) enter(tab.conversation, { address: bare() });
      }
      return { kept };
    },
    // The prompt that is being answered now: a page that is closed meanwhile leaves it in its conversation.
    asking(prompt) {
      const { kept = null, asked: before, used, ...rest } = mine() ?? {};
      if (!prompt && !before) return;
      store(tab.conversation, { ...rest, kept, asked: prompt || undefined, used: prompt ? Date.now() : used, ran: Boolean(prompt) || turns(kept) > 0 });
    },
    asked: () => find(tab.conversation)?.asked ?? null,
    elsewhere() {
      const from = find(tab.conversation)?.from;
      show(turns(find(from)?.kept) > 0 ? from : last()?.id);
    },
    // --- what the list of conversations does (conversations.js) ---
    all() {
      const here = find(tab.conversation);
      const every = [...(here ? [{ id: tab.conversation, ...here }] : []), ...others()];
      return every.filter(isListed).map((each) => ({
        id: each.id, day: day(each.used), title: named(each), turns: turns(each.kept), asked: Boolean(each.asked), characters: each.kept?.length ?? 0, current: each.id === tab.conversation,
      }));
    },
    open: (id) => id === tab.conversation || show(id),
    rename: (id, title) => change(id, { title }),
    // Returns what puts it back; nothing where its turns are in sight.
    remove(id) {
      const stored = ["localStorage", "sessionStorage"].map((where) => [where, reading(where, PREFIX + id)]).filter(([, kept]) => kept);
      if ((id === tab.conversation && turns(find(id)?.kept) > 0) || !stored.length) return null;
      stored.forEach(([where]) => removing(where, PREFIX + id));
      return () => stored.forEach(([where, kept]) => writing(where, PREFIX + id, kept));
    },
    exported(id) {
      const stored = find(id);
      const title = named(stored);
      return { title, text: JSON.stringify({ "same-seed": "conversation", version: 1, title, kept: JSON.parse(stored.kept) }, null, 1) };
    },
    // Shows an exported conversation as one of this browser's, or says why not. The server checks what is in it.
    take(text) {
      let told = null;
      try { told = JSON.parse(text); } catch { /* no JSON */ }
      if (told?.["same-seed"] !== "conversation" || !Array.isArray(told.kept?.records)) return "This file is not a conversation that was exported here.";
      const id = fresh();
      store(id, { kept: JSON.stringify(told.kept), title: String(told.title ?? "").slice(0, 200) || undefined });
      if (!find(id)) return "This browser has no room for that conversation; forget others first.";
      show(id);
      return "";
    },
    forget() {
      for (const storage of ["localStorage", "sessionStorage"]) {
        try { Object.keys(window[storage]).filter((key) => key.startsWith(PREFIX) && key !== TAB).forEach((key) => removing(storage, key)); } catch { /* nothing is kept */ }
      }
      tab.conversation = fresh();
      enter(tab.conversation, { address: bare() });
      location.reload();
    },
    keeps,
    keep(on) {
      const stored = find(tab.conversation);
      on ? removing("localStorage", NOT_KEPT) : writing("localStorage", NOT_KEPT, true);
      if (!on) removing("localStorage", PREFIX + tab.conversation);
      if (stored) store(tab.conversation, stored);
    },
  };
})();
