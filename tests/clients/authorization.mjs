// A client that comes without a token and does what it is told: it looks for the authorization server, introduces itself, lets
// somebody log in, reads; asks for more when it wants to write; and takes a new token when the old one has expired. With the
// official clients: 2.4 speaks 2026-07-28, 1.32 speaks 2025-11-25 and can neither refresh without being told to nor add scopes.
// It prints one JSON document: what each step was answered.

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    // The server's /mcp address.
    url: { type: "string" },
    // Who logs in.
    as: { type: "string", default: "ada" },
    revision: { type: "string", default: "2026-07-28" },
    // The address of a document that names the client, instead of its registration.
    document: { type: "string" },
    // What to book.
    booking: { type: "string", default: "{}" },
  },
});
const url = new URL(values.url);
const CALLBACK = "http://127.0.0.1/callback";
/** How long an access token may take to expire. */
const PATIENCE_MS = 30_000;

const newest = values.revision === "2026-07-28";
const sdk = newest
  ? await import("@modelcontextprotocol/client")
  : {
      ...(await import("@modelcontextprotocol/sdk/client/index.js")),
      ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      ...(await import("@modelcontextprotocol/sdk/client/auth.js")),
    };

/** What went over the wire, in order. */
const wire = [];

async function watched(address, init) {
  const response = await fetch(address, init);
  const at = new URL(address);
  const form = init?.body instanceof URLSearchParams ? Object.fromEntries(init.body) : {};
  wire.push({
    what: `${init?.method ?? "GET"} ${at.pathname}`,
    origin: at.origin,
    status: response.status,
    challenge: response.headers.get("www-authenticate"),
    grant: form.grant_type,
    resource: form.resource,
  });
  return response;
}

/** What a client keeps between the steps, and what it would show in a browser. */
class Visitor {
  redirectUrl = CALLBACK;
  clientMetadataUrl = values.document;
  clientMetadata = {
    client_name: "A client of the tests",
    redirect_uris: [CALLBACK],
    grant_types: ["authorization_code", "refresh_token"],
    token_endpoint_auth_method: "none",
  };
  state = () => randomUUID();
  clientInformation = () => this.client;
  saveClientInformation = (client) => void (this.client = client);
  tokens = () => this.granted;
  saveTokens = (granted) => void (this.granted = granted);
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  discoveryState = () => this.discovered;
  saveDiscoveryState = (discovered) => void (this.discovered = discovered);
  redirectToAuthorization(address) {
    this.asked = new URL(address);
    this.asked.searchParams.set("login_hint", values.as);
  }
}

/** What a browser does: goes where it is sent, with its cookies, until it is sent back to the client. */
async function browse(address) {
  const jar = new Map();
  for (let next = address; ; ) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(next, { redirect: "manual", headers: { cookie } });
    for (const set of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(set);
      value ? jar.set(name, value) : jar.delete(name);
    }
    const location = response.headers.get("location");
    if (!location) throw new Error(`${next} answers ${response.status}: ${await response.text()}`);
    next = new URL(location, next);
    if (next.href.startsWith(CALLBACK)) return next.searchParams;
  }
}

const visitor = new Visitor();
let client;
let transport;

async function connect() {
  const options = newest ? { versionNegotiation: { mode: { pin: values.revision } } } : {};
  client = new sdk.Client({ name: "authorization", version: "1.0.0" }, options);
  client.onerror = (error) => process.stderr.write(`client: ${error.message}\n`);
  transport = new sdk.StreamableHTTPClientTransport(url, { authProvider: visitor, fetch: watched });
  await client.connect(transport);
}

/** Does something, lets a person log in when that is what it takes, and does it again. Tells what the person was asked. */
async function withConsent(work) {
  try {
    return { result: await work() };
  } catch (error) {
    if (!(error instanceof sdk.UnauthorizedError)) throw error;
  }
  const { searchParams } = visitor.asked;
  const returned = await browse(visitor.asked);
  const state = returned.get("state") === searchParams.get("state");
  await transport.finishAuth(newest ? returned : returned.get("code"));
  const asked = Object.fromEntries(["scope", "resource", "code_challenge_method", "prompt"].map((name) => [name, searchParams.get(name)]));
  return { asked, state, iss: returned.get("iss"), granted: visitor.granted.scope, result: await work() };
}

const told = {};

/** One step of the story: what it came to, and what it took. */
async function step(name, work) {
  const from = wire.length;
  told[name] = { ...(await work()), wire: wire.slice(from) };
}

const search = () => client.callTool({ name: "search_appointments", arguments: {} });
const book = () => client.callTool({ name: "book_appointment", arguments: JSON.parse(values.booking) });

/** The status of a call with a token that is none of the client's business. */
async function statusWith(token) {
  const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
  const response = await fetch(url, { method: "POST", headers, body: '{"jsonrpc":"2.0","id":1,"method":"ping"}' });
  return { status: response.status, challenge: response.headers.get("www-authenticate") };
}

/** Waits until the server takes the access token no more. */
async function expired() {
  const token = visitor.granted.access_token;
  for (const begun = Date.now(); Date.now() - begun < PATIENCE_MS; await setTimeout(50)) {
    const refused = await statusWith(token);
    if (refused.status !== 200) return refused;
  }
  throw new Error("the access token does not expire");
}

try {
  await step("connect", async () => {
    const { result, ...rest } = await withConsent(connect);
    return { ...rest, registered: visitor.client.client_id };
  });
  await step("search", () => withConsent(search));
  await step("book", () => withConsent(book));
  await step("both", () => withConsent(search));
  const before = visitor.granted;
  await step("expire", expired);
  await step("refresh", async () => ({
    ...(await withConsent(search)),
    rotated: Boolean(before.refresh_token) && before.refresh_token !== visitor.granted.refresh_token,
  }));
  await client.close();
} catch (error) {
  told.failed = { name: error.name, message: error.message, wire: wire.slice(-8) };
  process.exitCode = 1;
}
process.stdout.write(`${JSON.stringify(told)}\n`);
// The older client still asks for the streams that it lost.
process.stdout.write("", () => process.exit());
