// What this page's own requests to its server came to. Gradio's client has one sentence for whatever was refused, and one
// that is broken off in mid-reply waits for its stream for ever: whatever is asked after that is answered to nobody. Lines
// for the page's own scripts stand in that stream too (core/ui/stream.py), and are taken out of it here.
window.sameSeed.connection = (() => {
  const LOST = "The connection to the server broke off, or it is being started again.";
  let why = ""; // the last request was refused or broken off
  const said = async (answer) => {
    try {
      const { detail } = await answer.json();
      return typeof detail === "string" ? detail : "";
    } catch { return ""; }
  };
  const own = (message) => {
    if (!message.startsWith('data: {"msg":"told"')) return false;
    document.dispatchEvent(new CustomEvent("told", { detail: JSON.parse(message.slice(6)).line }));
    return true;
  };
  // What is Gradio's of the stream, with an end: one that is broken off says so, as the server would have.
  const whole = (stream) => {
    const reader = stream.getReader();
    const decoder = new TextDecoder();
    let begun = ""; // of a message that has not come whole
    let last = "";
    const pass = (controller, messages) => controller.enqueue(new TextEncoder().encode(messages.map((each) => `${each}\n\n`).join("")));
    const end = (controller) => {
      if (!last.includes('"close_stream"')) {
        why = LOST;
        pass(controller, [{ msg: "unexpected_error", message: LOST, success: false }, { msg: "close_stream" }].map((each) => `data: ${JSON.stringify(each)}`));
      }
      controller.close();
    };
    return new ReadableStream({
      async pull(controller) {
        try {
          for (let theirs = []; !theirs.length; ) {
            const { done, value } = await reader.read();
            if (done) return end(controller);
            const messages = (begun + decoder.decode(value, { stream: true })).split("\n\n");
            begun = messages.pop();
            theirs = messages.filter((each) => !own(each));
            if (theirs.length) pass(controller, theirs);
            last = theirs.at(-1) ?? last;
          }
        } catch (error) {
          if (error?.name === "AbortError") controller.close(); // the page itself wants no more of it
          else end(controller);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    });
  };
  const fetched = window.fetch.bind(window);
  window.fetch = async (what, how) => {
    const path = new URL(what?.url ?? what, location.href).pathname;
    const joins = path.endsWith("/queue/join");
    if (joins) why = "";
    let answer;
    try {
      answer = await fetched(what, how);
    } catch (error) {
      if (joins) why = LOST;
      throw error;
    }
    if (joins && !answer.ok) why = await said(answer.clone());
    if (!path.endsWith("/queue/data") || !answer.ok || !answer.body) return answer;
    return new Response(whole(answer.body), { status: answer.status, headers: answer.headers });
  };
  return { why: () => why };
})();
