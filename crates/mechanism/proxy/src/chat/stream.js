// What comes from the server: answers with a status, event streams, and times in a header.

/** An error that the page shows: its cause, what helps, and what can be done at once. */
class Failure extends Error {
  constructor(cause, cure, { status = 0, requestId = "", action = "retry", param = "" } = {}) {
    super(cause);
    Object.assign(this, { cure, status, requestId, action, param });
  }
}

/** Sends a request; every failure is a `Failure`, but for the user's own stop. */
async function ask(path, { key, body, signal } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("the server did not answer", `See whether it still runs at ${location.host}.`);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // Not every answer is JSON: a server in between may have its own words.
  }
  const error = told.error ?? {};
  const cause = error.message ?? told.detail ?? (typeof error === "string" ? error : text.slice(0, 500));
  const requestId = response.headers.get("x-request-id") ?? "";
  const { status } = response;
  const [cure, action] = cureOf(response, cause, error.param);
  return new Failure(cause || response.statusText || "no reason was given", cure, { status, requestId, action, param: error.param });
}

/** What helps, and what a button can do about it. */
function cureOf(response, cause, param) {
  if (/no chat template/.test(cause)) {
    return ["It can go on with plain text, as it does at /v1/completions.", "plain"];
  }
  switch (response.status) {
    case 400:
    case 422:
      return [param ? `Look at ${param} in the settings, or shorten the conversation.` : "Look at the settings.", "settings"];
    case 401:
    case 403:
      return ["Enter the server's API key in the settings.", "settings"];
    case 404:
      return ["Choose another model above.", "models"];
    case 413:
      return ["Begin a new chat, or send less.", "retry"];
    case 429:
    case 503: {
      const seconds = response.headers.get("retry-after");
      return [seconds ? `Try again in ${seconds} s.` : "Try again soon.", "retry"];
    }
    default:
      return ["Try again; the server's log says more.", "retry"];
  }
}

/** The data of each event of a stream. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** `Server-Timing` as a list of names and milliseconds. */
function timings(header) {
  const all = (header ?? "").split(",").map((metric) => /^\s*([^;\s]+)\s*;.*?dur=([\d.]+)/.exec(metric));
  return all.filter(Boolean).map(([, name, ms]) => ({ name, ms: Number(ms) }));
}

/** What an event adds to the answer, whichever of the two routes it is from. */
function pieceOf(event) {
  const choice = event.choices?.[0] ?? {};
  const delta = choice.delta ?? {};
  return {
    text: delta.content ?? choice.text ?? "",
    reasoning: delta.reasoning_content ?? delta.reasoning ?? "",
    toolCalls: delta.tool_calls ?? [],
    finish: choice.finish_reason ?? null,
    usage: event.usage ?? null,
  };
}
