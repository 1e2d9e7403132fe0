// An adapter for Cabinet in JavaScript, without dependencies: it does the work of an HttpStage, here counting words.
//
//   SECRET=whsec_… PORT=8787 node adapter.mjs
//
// PORT=0 takes a free port. The first line on standard output is the URL for the stage. Make a secret with
// `echo "whsec_$(openssl rand -base64 32)"`; the stage is given the same.
//
// What an adapter answers: 200 with a JSON object (the stage's outputs) or 204, when the work is done; 202 with
// Retry-After to be asked again later; 503 or 429, with Retry-After if it can tell, when it cannot now; any other 4xx
// when it never will. Of an error's body Cabinet shows `detail` to the operators.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const PATH = "/words";
const BODY_BYTES_LIMIT = 1_048_576;
const TOLERANCE_SECONDS = 300;
const REMEMBERED_LIMIT = 1_000;

const key = readKey(process.env.SECRET);
const port = readPort(process.env.PORT ?? "8787");

// The outputs of work that is done, by webhook-id. Cabinet repeats a request whose answer it did not see, always with
// the same id, and the work must not be done twice. Here doing it twice would do no harm, and the memory is lost with
// the process; an adapter that moves money keeps the id in its database, in the transaction that does the work.
const remembered = new Map();

function work(message) {
  const text = message?.type === "cabinet.stage" ? message.data?.payload?.text : undefined;
  if (typeof text !== "string") {
    throw new Refusal(422, "This adapter counts the words of `payload.text`; there is no such text in this payload.");
  }
  return { words: (text.match(/[^ \t\r\n]+/g) ?? []).length };
}

async function answer(request) {
  if (request.url.split("?")[0] !== PATH) throw new Refusal(404, `Post to ${PATH}.`);
  if (request.method !== "POST") throw new Refusal(405, `Post to ${PATH}.`, { Allow: "POST" });
  const body = await read(request);
  // Over the bytes as they came: JSON that was parsed and written anew has another signature.
  if (!isSigned(request.headers, body)) {
    const detail = "The signature is wrong, too old or missing; compare the secrets and the clocks of both sides.";
    throw new Refusal(401, detail);
  }
  const id = request.headers["webhook-id"];
  const done = remembered.get(id);
  if (done !== undefined) return { outputs: done, headers: { "Idempotent-Replayed": "true" } };
  const outputs = work(parse(body));
  remember(id, outputs);
  return { outputs, headers: {} };
}

// Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`. While the secret is being replaced there are two
// signatures, separated by a space; one that fits is enough.
function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": sentAt, "webhook-signature": signatures } = headers;
  if (!id || !signatures || !/^[0-9]{1,12}$/.test(sentAt ?? "")) return false;
  if (Math.abs(Date.now() / 1000 - Number(sentAt)) > TOLERANCE_SECONDS) return false;
  const expected = createHmac("sha256", key).update(`${id}.${sentAt}.`).update(body).digest();
  return signatures.split(" ").some((signature) => {
    const [version, text = ""] = signature.split(",");
    const given = Buffer.from(text, "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

async function read(request) {
  const chunks = [];
  let size = 0;
  // What is too much is read to its end and dropped: whoever is cut off while sending does not see the answer.
  for await (const chunk of request) {
    size += chunk.length;
    if (size <= BODY_BYTES_LIMIT) chunks.push(chunk);
  }
  if (size > BODY_BYTES_LIMIT) throw new Refusal(413, `The body has more than ${BODY_BYTES_LIMIT} bytes.`);
  return Buffer.concat(chunks);
}

function parse(body) {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    throw new Refusal(422, "The body is no JSON.");
  }
}

function remember(id, outputs) {
  remembered.set(id, outputs);
  if (remembered.size > REMEMBERED_LIMIT) remembered.delete(remembered.keys().next().value);
}

class Refusal extends Error {
  constructor(status, detail, headers = {}) {
    super(detail);
    this.status = status;
    this.headers = headers;
  }
}

function send(response, status, type, value, headers) {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { "Content-Type": type, "Content-Length": body.length, ...headers });
  response.end(body);
}

function sendProblem(response, status, detail, headers = {}) {
  send(response, status, "application/problem+json", { status, detail }, headers);
}

const server = createServer(async (request, response) => {
  try {
    const { outputs, headers } = await answer(request);
    send(response, 200, "application/json", outputs, headers);
  } catch (error) {
    if (error instanceof Refusal) return sendProblem(response, error.status, error.message, error.headers);
    console.error(error);
    sendProblem(response, 500, "The adapter failed; its log says more."); // 5xx: Cabinet tries again
  }
});

server.requestTimeout = 30_000; // milliseconds until a request must have arrived whole
server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}${PATH}`));

function readKey(secret = "") {
  const bytes = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  if (secret.startsWith("whsec_") && bytes.length >= 24 && bytes.length <= 64) return bytes;
  return stop("SECRET must be `whsec_` and then 24 to 64 random bytes in base64.");
}

function readPort(text) {
  if (/^[0-9]{1,5}$/.test(text) && Number(text) <= 65_535) return Number(text);
  return stop("PORT must be a number from 0 to 65535; 0 takes a free port.");
}

function stop(sentence) {
  console.error(sentence);
  process.exit(2);
}
