// The official client of AG-UI at a run's stream: prints what it understood, as JSON.
//
//   node show.mjs URL FRAMES
//
// The connection is cut after so many frames (0: never) and taken up again with Last-Event-ID, below the client, as
// an EventSource would; the client is to see one stream.
import { HttpAgent } from "@ag-ui/client";

const [url, frames] = [process.argv[2], Number(process.argv[3])];

/** The frames of one connection after a position; reports whether there are more to come. */
async function* connection(after) {
  const headers = after === "" ? {} : { "Last-Event-ID": after };
  const response = await fetch(url, { headers });
  if (response.status === 204) return;
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    text += piece;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      yield text.slice(0, end + 2);
      text = text.slice(end + 2);
    }
  }
}

/** The body of one stream, made of connections that are cut. */
async function* stream() {
  let last = "";
  for (let connected = true; connected; ) {
    connected = false;
    let left = frames;
    for await (const frame of connection(last)) {
      yield new TextEncoder().encode(frame);
      last = /^id: (.*)$/m.exec(frame)?.[1] ?? last;
      if (/^data: /m.test(frame) && --left === 0) {
        connected = true;
        break;
      }
    }
  }
}

class Reader extends HttpAgent {
  // the client posts to an agent that begins; here one reads what has been recorded
  requestInit() {
    return { method: "GET" };
  }
}

const seen = [];
const agent = new Reader({
  url,
  fetch: async () => {
    const pieces = stream();
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await pieces.next();
        done ? controller.close() : controller.enqueue(value);
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  },
});
let failed = null;
await agent
  .runAgent({}, { onEvent: ({ event }) => void seen.push(event.type) })
  .catch((error) => void (failed = String(error)));
console.log(JSON.stringify({ seen, failed, messages: agent.messages, state: agent.state }));
