// What this page's own requests to its server came to. Gradio's client has one sentence for whatever was refused, and one
// that is broken off in mid-reply waits for its stream for ever: whatever is asked after that is answered to nobody.
window.sameSeed.connection = (() => {
  const LOST = "The connection to the server broke off, or it is being started again.";
  let why = ""; // the last request was refused or broken off
  const said = async (answer) => {
    try {
      const { detail } = await answer.json();
      return typeof detail === "string" ? detail : "";
    } catch { return ""; }
  };
  // The stream with an end: one that is broken off says so, as the server would have.
  const whole = (stream) => {
    const reader = stream.getReader();
    const decoder = new TextDecoder();
    let tail = "";
    const end = (controller) => {
      if (!tail.includes('"close_stream"')) {
        why = LOST;
        const told = [{ msg: "unexpected_error", message: LOST, success: false }, { msg: "close_stream" }];
        controller.enqueue(new TextEncoder().encode(told.map((each) => `\n\ndata: ${JSON.stringify(each)}\n\n`).join("")));
      }
      controller.close();
    };
    return new ReadableStream({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) return end(controller);
          tail = (tail + decoder.decode(value, { stream: true })).slice(-200);
          controller.enqueue(value);
        } catch (error) {
          if (error?.name === "AbortError") controller.error(error); // the page itself wants no more of it
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
