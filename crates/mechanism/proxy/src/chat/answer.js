// One answer: what has come of it, and how it looks.

/** Colours for the phases of a cold start; one more is for what no phase explains. */
const NUM_COLOURS = 11;
const REST = "outside the server";

/** How an answer ended, where that is worth a word. */
const ENDS = { length: "ended at max tokens", stopped: "stopped", error: "broke off" };

class Answer {
  /** `isPlain`: the model has no chat template and goes on with plain text. */
  constructor(isPlain) {
    this.isPlain = isPlain;
    Object.assign(this, { text: "", reasoning: "", toolCalls: [], finish: null, usage: null, failure: null });
    Object.assign(this, { timing: [], started: performance.now(), first: null, last: null, firstTokens: 1 });
    this.drawn = {};
    this.build();
  }

  build() {
    this.body = el("div", { className: "body" });
    this.thought = el("div", { className: "thought" });
    this.reasoningBox = el("details", { className: "reasoning", hidden: true }, el("summary", {}, "Reasoning"), this.thought);
    this.calls = el("pre", { className: "calls", hidden: true, tabIndex: 0 });
    this.calls.dataset.language = "tool calls";
    this.waiting = el("p", { className: "waiting" }, el("span", { className: "pulse" }), el("span"));
    this.start = el("figure", { className: "start", hidden: true });
    this.problem = el("div", { className: "problem", hidden: true });
    this.problem.setAttribute("role", "alert");
    this.figures = el("p", { className: "figures" });
    this.tools = el("p", { className: "tools", hidden: true });
    const parts = [this.reasoningBox, this.waiting, this.body, this.calls, this.problem, this.start, this.figures, this.tools];
    this.element = el("article", { className: "answer" }, ...parts);
    this.element.setAttribute("aria-label", "Answer");
  }

  /** Takes what an event adds. */
  add(piece, now = performance.now()) {
    if (piece.text || piece.reasoning || piece.toolCalls.length) {
      this.first ??= now;
      this.last = now;
    }
    this.text += piece.text;
    this.reasoning += piece.reasoning;
    piece.toolCalls.forEach((call) => this.addCall(call));
    this.finish = piece.finish ?? this.finish;
    if (piece.usage) {
      if (this.first === now) this.firstTokens = piece.usage.completion_tokens ?? 1;
      this.usage = piece.usage;
    }
  }

  /** A call comes in pieces: its name first, then its arguments bit by bit. */
  addCall({ index = 0, id, function: called = {} }) {
    const call = (this.toolCalls[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name ||= called.name ?? "";
    call.arguments += called.arguments ?? "";
  }

  /** Output tokens per second after the first ones. */
  rate() {
    const tokens = (this.usage?.completion_tokens ?? 0) - this.firstTokens;
    const seconds = (this.last - this.first) / 1000;
    return this.first !== null && tokens > 0 && seconds > 0 ? tokens / seconds : null;
  }

  /** Draws what is new. */
  draw() {
    const isWaiting = this.first === null && !this.finish && !this.failure;
    this.waiting.hidden = !isWaiting;
    if (isWaiting) this.waiting.lastChild.textContent = waited(performance.now() - this.started);
    if (this.changed("reasoning", this.reasoning)) this.drawReasoning();
    if (this.changed("text", this.text)) this.drawText();
    if (this.toolCalls.length) {
      this.calls.hidden = false;
      this.calls.textContent = this.toolCalls.filter(Boolean).map(callText).join("\n");
    }
    if (this.changed("figures", this.figuresText())) this.drawFigures();
    if (this.changed("timing", this.first === null ? "" : JSON.stringify(this.timing))) this.drawStart();
  }

  changed(name, value) {
    const isNew = (this.drawn[name] ?? "") !== value;
    this.drawn[name] = value;
    return isNew;
  }

  /** Unfolded while it is all that there is. */
  drawReasoning() {
    if (this.reasoningBox.hidden) this.reasoningBox.open = !this.text;
    this.reasoningBox.hidden = false;
    this.thought.textContent = this.reasoning;
  }

  drawText() {
    if (!this.body.hasChildNodes()) this.reasoningBox.open = false;
    this.body.replaceChildren(markdown(this.text));
  }

  figuresText() {
    const { usage } = this;
    const rate = this.rate();
    const cached = usage?.prompt_tokens_details?.cached_tokens;
    const queue = this.timing.find(({ name }) => name === "queue")?.ms ?? 0;
    const parts = [
      this.first === null ? null : `first token ${duration(this.first - this.started)}`,
      rate === null ? null : `${number(rate)} tokens/s`,
      queue < 1 ? null : `queued ${duration(queue)}`,
      usage ? `${usage.prompt_tokens} prompt tokens${cached ? `, ${cached} cached` : ""}` : null,
      usage ? `${usage.completion_tokens ?? 0} output tokens` : null,
      this.isPlain ? "as plain text" : null,
      ENDS[this.finish] ?? (this.finish === "stop" ? null : this.finish),
    ];
    return parts.filter(Boolean).join("\n");
  }

  drawFigures() {
    const parts = this.figuresText().split("\n");
    this.figures.replaceChildren(...parts.map((part) => el("span", {}, part)));
  }

  /** Where the time to the first token went, when the model had to wake. */
  drawStart() {
    const wake = this.timing.find(({ name }) => name === "wake")?.ms ?? 0;
    if (!wake) return;
    const total = this.first - this.started;
    const phases = phasesOf(this.timing, total);
    const bar = el("div", { className: "bar" });
    bar.setAttribute("aria-hidden", "true");
    const legend = el("ul");
    phases.forEach(({ name, ms }, index) => {
      const colour = name === REST ? "var(--rest)" : `var(--s${(index % NUM_COLOURS) + 1})`;
      const part = el("i", { title: `${name} ${duration(ms)}` });
      part.style.flexGrow = ms;
      const mark = el("i");
      part.style.background = mark.style.background = colour;
      bar.append(part);
      legend.append(el("li", {}, mark, `${name} `, el("b", {}, duration(ms))));
    });
    const caption = `Cold start: the model woke in ${duration(wake)}, the first token came after ${duration(total)}`;
    this.start.replaceChildren(el("figcaption", {}, caption), bar, legend);
    this.start.hidden = false;
  }

  /** Shows why it failed; `act` does what a button says. */
  fail(failure, act) {
    this.failure = failure;
    this.finish = this.text ? "error" : this.finish;
    const status = failure.status ? `${failure.status}: ` : "";
    const labels = { settings: "Open settings", plain: "Go on with plain text", models: "Choose a model", retry: "Try again" };
    const actions = Object.keys(labels).filter((action) => [failure.action, "retry"].includes(action));
    const button = (action) => el("button", { type: "button", onclick: () => act(action) }, labels[action]);
    this.problem.replaceChildren(
      el("p", { className: "cause" }, status + failure.message),
      el("p", {}, failure.cure),
      el("p", { className: "id" }, failure.requestId && `Request ${failure.requestId}`),
      el("p", { className: "tools" }, ...actions.map(button)),
    );
    this.problem.hidden = false;
  }
}

/** The parts of the time to the first token; what no part explains is the way there and back. */
function phasesOf(timing, total) {
  const hasParts = timing.some(({ name }) => name.startsWith("wake."));
  const parts = timing.filter(({ name }) => name !== "decode" && !(hasParts && name === "wake"));
  const phases = parts.map(({ name, ms }) => ({ name: name.replace(/^wake\./, ""), ms }));
  const rest = total - phases.reduce((sum, { ms }) => sum + ms, 0);
  return [...phases, { name: REST, ms: rest }].filter(({ ms }) => ms >= 0.05);
}

function callText(call) {
  let parsed = call.arguments;
  try {
    parsed = JSON.parse(call.arguments);
  } catch {
    // It has not all come yet, or is not JSON: shown as it is.
  }
  return JSON.stringify({ ...call, arguments: parsed }, null, 2);
}

function waited(ms) {
  return ms < 400 ? "" : `No token yet after ${number(ms / 1000)} s. A model that slept has to wake first.`;
}

function duration(ms) {
  return ms < 1000 ? `${number(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

function number(value) {
  return value.toFixed(value >= 100 ? 0 : 1);
}
