// A page in Chromium that speaks MCP with `fetch`, from an origin of its own. stdout carries one JSON line for each request that the
// page made: the status it read, or that the browser let it read nothing.

import { createServer } from "node:http";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { parseArgs } from "node:util";

import puppeteer from "puppeteer-core";

const { values } = parseArgs({
  options: {
    // The MCP endpoint.
    url: { type: "string" },
    // A server that asks for tokens.
    protected: { type: "string" },
    // A token that allows too little for `book_appointment`.
    token: { type: "string" },
    // The operations listener.
    operations: { type: "string" },
    // The header that names the caller.
    principal: { type: "string" },
    // The host name of the page, which leads to this machine.
    host: { type: "string", default: "localhost" },
  },
});

function browserPath() {
  const isThere = (path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  };
  const folders = (process.env.PATH ?? "").split(delimiter);
  const names = process.env.CHROMIUM ? [process.env.CHROMIUM] : ["chromium", "chromium-browser", "google-chrome"];
  const found = names.flatMap((name) => (name.includes("/") ? [name] : folders.map((folder) => join(folder, name)))).find(isThere);
  if (found) return found;
  process.stderr.write("no Chromium was found: run `./dev test`, which installs one, or let CHROMIUM name it\n");
  process.exit(69);
}

/** Runs in the page. */
async function inThePage({ url, guarded, token, operations, principal }) {
  const told = [];
  const ask = async (what, address, init = {}) => {
    try {
      const response = await fetch(address, { ...init, headers: { ...init.headers } });
      const type = response.headers.get("content-type") ?? "";
      const text = type.startsWith("text/event-stream") ? "" : await response.text();
      told.push({
        what,
        status: response.status,
        text: text.slice(0, 300),
        session: response.headers.get("mcp-session-id"),
        challenge: response.headers.get("www-authenticate"),
        encoding: response.headers.get("accept-encoding"),
      });
      return response;
    } catch (error) {
      told.push({ what, failed: `${error.name}: ${error.message}` });
      return undefined;
    }
  };
  const json = { "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
  const message = (id, method, params) => JSON.stringify({ jsonrpc: "2.0", id, method, params });
  const ping = message(1, "ping", {});
  const post = (what, address, headers, body) => ask(what, address, { method: "POST", headers: { ...json, ...headers }, body });
  const clientInfo = { name: "page", version: "1" };
  const initialize = message(0, "initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo });
  const opened = await post("initialize", url, {}, initialize);
  const session = { "Mcp-Session-Id": opened?.headers.get("mcp-session-id") ?? "", "MCP-Protocol-Version": "2025-11-25" };
  await post("list in the session", url, session, message(1, "tools/list", {}));
  const abort = new AbortController();
  await ask("stream", url, { headers: { ...session }, signal: abort.signal });
  abort.abort();
  await ask("resume", url, { headers: { ...session, Accept: "text/event-stream", "Last-Event-ID": "x" } });
  await ask("delete", url, { method: "DELETE", headers: session });
  await post("deleted session", url, session, ping);
  await post("unknown version", url, { "MCP-Protocol-Version": "1999" }, ping);
  const meta = { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} };
  const list = message(2, "tools/list", { _meta: meta });
  const newest = { "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list" };
  await post("2026-07-28", url, newest, list);
  await post("parameter headers", url, { ...newest, "Mcp-Param-Region": "eu", "Mcp-Param-Time-Zone": "CET" }, list);
  const trace = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate: "a=b", baggage: "c=d" };
  await post("trace headers", url, trace, ping);
  await post("principal header", url, { [principal]: "ada" }, ping);
  await post("other header", url, { "X-Other": "1" }, ping);
  await post("slash", `${url}/`, {}, ping);
  await post("root", new URL("/", url).href, {}, ping);
  await ask("root, read", new URL("/", url).href);
  await post("nowhere", new URL("/nowhere", url).href, {}, ping);
  await ask("wrong method", url, { headers: { "MCP-Protocol-Version": "2026-07-28" } });
  await post("wrong type", url, { "Content-Type": "text/plain" }, ping);
  await post("too large", url, {}, message(1, "ping", { a: "x".repeat(200_000) }));
  await ask("health", new URL("/health", url).href);
  await post("no token", guarded, {}, ping);
  const booking = { userId: "ada", title: "Dentist", startsAt: "2031-05-05T10:00", durationMinutes: 30 };
  const book = message(3, "tools/call", { name: "book_appointment", arguments: booking });
  await post("too few scopes", guarded, { Authorization: `Bearer ${token}` }, book);
  await post("wrong token", guarded, { Authorization: "Bearer x.y.z" }, ping);
  for (const path of ["oauth-protected-resource", "oauth-protected-resource/mcp"]) {
    await ask(path, new URL(`/.well-known/${path}`, guarded).href, { headers: { "MCP-Protocol-Version": "2025-11-25" } });
  }
  const server = new URL("/.well-known/oauth-authorization-server", url).href;
  await ask("no authorization server", server, { headers: { "MCP-Protocol-Version": "2025-11-25" } });
  await ask("operations, read", `${operations}/metrics`);
  await ask("operations, leave", `${operations}/leave`, { method: "POST" });
  // What no browser lets a page read, it may still send.
  await fetch(`${operations}/leave`, { method: "POST", mode: "no-cors" }).catch(() => undefined);
  await new Promise((resolve) => {
    const image = new Image();
    image.onload = image.onerror = resolve;
    image.src = `${operations}/leave`;
  });
  return told;
}

const page = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html>"));
await new Promise((resolve) => page.listen(0, "127.0.0.1", resolve));
const browser = await puppeteer.launch({
  executablePath: browserPath(),
  // It ends with us even if we are killed, because the pipe does.
  pipe: true,
  // The sandbox of Chromium refuses to run as root, which is what containers run as.
  args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
});
try {
  const tab = await browser.newPage();
  await tab.goto(`http://${values.host}:${page.address().port}/`);
  const { url, protected: guarded, token, operations, principal } = values;
  const told = await tab.evaluate(inThePage, { url, guarded, token, operations, principal });
  process.stdout.write(JSON.stringify(told));
} finally {
  await browser.close();
  page.close();
}
