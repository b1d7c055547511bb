// What this browser keeps of its visitor's conversations, and which of them a tab shows.
//
// An entry of the browser's history names its conversation (history.state.conversation), so back, forward and a
// reload show what they showed. A conversation belongs to the tab that writes it: any other one that comes upon it,
// a duplicated tab or a new one that continues the last conversation, gets a copy of its own.
window.sameSeed.visitor = (() => {
  const PREFIX = "same-seed/";
  const MOST = 50; // conversations in this browser; the ones that were not looked at for the longest go first

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
  addEventListener("pagehide", () => rest(true));
  addEventListener("pageshow", () => rest(false));
  rest(false);

  // --- the conversations: {owner, used, from, kept}; one in which nothing was run yet is gone with its tab -----------

  const find = (id) => (id && (reading("localStorage", PREFIX + id) ?? reading("sessionStorage", PREFIX + id))) || null;
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
  const last = () => others().find(({ kept }) => turns(kept) > 0) ?? null;
  const store = (id, { kept, from = null, ran = true }) => {
    const stored = { owner: tab.id, used: Date.now(), from, kept };
    if (!ran) return writing("sessionStorage", PREFIX + id, stored);
    removing("sessionStorage", PREFIX + id);
    const old = others();
    while (old.length >= MOST) removing("localStorage", PREFIX + old.pop().id);
    while (!writing("localStorage", PREFIX + id, stored) && old.length) removing("localStorage", PREFIX + old.pop().id);
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
  const own = (id) => {
    const stored = find(id);
    if (!stored || stored.owner === tab.id) return id;
    const copy = fresh();
    store(copy, stored);
    return copy;
  };
  // Another entry, or another link or lesson typed into the address of an open page: show what belongs to it.
  addEventListener("popstate", () => {
    if (history.state?.conversation !== tab.conversation || means(location.hash) || location.hash.startsWith("#lesson=")) location.reload();
  });

  let brought = null; // with the page, told to whatever event comes first
  return {
    arrive(most) {
      if (brought) return brought;
      const entry = history.state?.conversation;
      const link = !entry && means(location.hash); // that has not been opened yet
      const id = own(entry ?? tab.conversation ?? fresh());
      if (link) tab.conversation = id;
      else enter(id);
      const stored = find(id);
      const mine = link ? turns(stored?.kept) > 0 : turns(find(stored?.from)?.kept) > 0;
      return brought = { kept: stored?.kept ?? null, address: location.hash.slice(0, most), fresh: link, own: mine, last: turns(last()?.kept) };
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
        store(tab.conversation, { kept, from: find(tab.conversation)?.from, ran });
        // A link that has been run has done its work: a reload then shows the conversation, not the link again.
        if (ran && means(location.hash)) enter(tab.conversation, { address: bare() });
      }
      return { kept };
    },
    elsewhere() {
      const from = find(tab.conversation)?.from;
      const id = turns(find(from)?.kept) > 0 ? from : last()?.id;
      if (!id) return;
      enter(id, { push: true, address: bare() });
      location.reload();
    },
  };
})();
