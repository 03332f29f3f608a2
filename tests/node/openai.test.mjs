// The openai client for Node, unmodified. TYNDALL_URL is the server's address.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.TYNDALL_URL}/v1`,
  apiKey: "unused",
  maxRetries: 0,
});
const HAIKU = "Write a haiku about Ray Serve.";
const chat = { model: "demo", temperature: 0, messages: [{ role: "user", content: HAIKU }] };
const town = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 12 },
    kind: { enum: ["village", "city"] },
  },
  required: ["name", "kind"],
  additionalProperties: false,
};

function isTown(value) {
  assert.deepEqual(Object.keys(value).sort(), ["kind", "name"]);
  assert.ok(["village", "city"].includes(value.kind));
}

test("models are listed", async () => {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, ["demo"]);
});

test("a chat stream says what the whole answer says", async () => {
  const whole = await client.chat.completions.create(chat);
  const stream = await client.chat.completions.create({
    ...chat,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.ok(text.length > 0);
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a stream that is left ends, and the next request is answered", async () => {
  const stream = await client.chat.completions.create({ ...chat, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;
  }
  assert.ok(stream.controller.signal.aborted);
  const next = await client.chat.completions.create(chat);
  assert.equal(next.choices[0].finish_reason, "stop");
});

test("a schema binds the answer", async () => {
  const answer = await client.chat.completions.create({
    ...chat,
    response_format: { type: "json_schema", json_schema: { name: "town", strict: true, schema: town } },
  });
  isTown(JSON.parse(answer.choices[0].message.content));
});

test("a tool that is asked for is called, whole and streamed", async () => {
  const request = {
    ...chat,
    tools: [{ type: "function", function: { name: "visit", parameters: town, strict: true } }],
    tool_choice: { type: "function", function: { name: "visit" } },
  };
  const whole = await client.chat.completions.create(request);
  const [call] = whole.choices[0].message.tool_calls;
  isTown(JSON.parse(call.function.arguments));
  const streamed = await client.chat.completions.stream(request).finalMessage();
  assert.equal(streamed.tool_calls[0].function.name, "visit");
  assert.equal(streamed.tool_calls[0].function.arguments, call.function.arguments);
});

test("responses stream, are kept, and go", async () => {
  const request = { model: "demo", input: HAIKU, temperature: 0 };
  const whole = await client.responses.create(request);
  const final = await client.responses.stream(request).finalResponse();
  assert.ok(whole.output_text.length > 0);
  assert.equal(final.output_text, whole.output_text);
  assert.equal((await client.responses.retrieve(whole.id)).output_text, whole.output_text);
  await client.responses.delete(whole.id);
  await assert.rejects(client.responses.retrieve(whole.id), OpenAI.NotFoundError);
});

test("errors are the client's own", async () => {
  await assert.rejects(
    client.chat.completions.create({ ...chat, model: "demmo" }),
    OpenAI.NotFoundError,
  );
  await assert.rejects(
    client.chat.completions.create({ ...chat, messages: [] }),
    (error) => error instanceof OpenAI.BadRequestError && error.message.length > 0,
  );
});
