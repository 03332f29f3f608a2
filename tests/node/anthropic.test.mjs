// The anthropic client for Node, unmodified. TYNDALL_URL is the server's address.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.TYNDALL_URL,
  apiKey: "unused",
  maxRetries: 0,
});
const request = {
  model: "demo",
  max_tokens: 200,
  temperature: 0,
  messages: [{ role: "user", content: "Write a haiku about Ray Serve." }],
};

test("a stream says what the whole message says", async () => {
  const whole = await client.messages.create(request);
  let text = "";
  const stream = client.messages.stream(request).on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert.ok(text.length > 0);
  assert.equal(text, whole.content[0].text);
  assert.equal(final.content[0].text, text);
  assert.equal(final.stop_reason, "end_turn");
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
});

test("a tool that is asked for is called, whole and streamed", async () => {
  const calling = {
    ...request,
    tools: [
      {
        name: "visit",
        input_schema: {
          type: "object",
          properties: { kind: { enum: ["village", "city"] } },
          required: ["kind"],
          additionalProperties: false,
        },
      },
    ],
    tool_choice: { type: "tool", name: "visit" },
  };
  const whole = await client.messages.create(calling);
  const call = whole.content.find((block) => block.type === "tool_use");
  assert.ok(["village", "city"].includes(call.input.kind));
  assert.equal(whole.stop_reason, "tool_use");
  const final = await client.messages.stream(calling).finalMessage();
  assert.deepEqual(final.content.find((block) => block.type === "tool_use").input, call.input);
});

test("tokens are counted", async () => {
  const { max_tokens: _, temperature: __, ...counting } = request;
  const counted = await client.messages.countTokens(counting);
  const { usage } = await client.messages.create(request);
  assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test("errors are the client's own", async () => {
  await assert.rejects(
    client.messages.create({ ...request, model: "demmo" }),
    Anthropic.NotFoundError,
  );
  await assert.rejects(
    client.messages.create({ ...request, max_tokens: 0 }),
    Anthropic.BadRequestError,
  );
});
