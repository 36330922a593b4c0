// The official v1 client: `initialize`, a session id, a GET stream, and a DELETE at the end.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { LATEST_PROTOCOL_VERSION } from "@modelcontextprotocol/sdk/types.js";

import { emit, observingFetch, readOptions, run } from "./caller.mjs";

const options = readOptions();

await run(options, async () => {
  const client = new Client({ name: "client-2025", version: "1.0.0" });
  let leaving = false;
  client.onerror = (error) => {
    // Ending the session ends its stream, which the client reports as a failure to reconnect.
    if (!leaving) process.stderr.write(`client: ${error.message}\n`);
  };

  // The client opens its GET stream by itself as soon as it is initialized, so we watch from the first request on.
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const watch = (what, fields) => {
    if (!options.hold) return;
    if (what === "answered") return emit(fields.stream ? "stream-open" : "stream-refused", { status: fields.status });
    emit("stream-end", leaving ? { how: "local" } : fields);
    if (!options.reconnect) end();
  };
  const transport = new StreamableHTTPClientTransport(options.url, {
    fetch: observingFetch(options, watch),
    sessionId: options.session,
    // A test that watches a switch wants the stream back at once, and as often as it takes.
    reconnectionOptions: {
      initialReconnectionDelay: 100,
      maxReconnectionDelay: 1000,
      reconnectionDelayGrowFactor: 1.5,
      maxRetries: options.reconnect ? 1000 : 0,
    },
  });
  await client.connect(transport, { timeout: options.timeout });
  if (options.session) {
    // The client takes a given session for initialized: it neither learns the version nor opens the stream.
    transport.setProtocolVersion(LATEST_PROTOCOL_VERSION);
    if (options.hold) await transport.resumeStream(undefined);
  }

  return {
    client,
    call: (params, request) => client.callTool(params, undefined, request),
    facts: () => ({
      protocolVersion: transport.protocolVersion,
      sessionId: transport.sessionId,
      serverInfo: client.getServerVersion(),
      capabilities: client.getServerCapabilities(),
    }),
    open: () => ended,
    async close() {
      leaving = true;
      if (!options["keep-session"]) await transport.terminateSession();
      await client.close();
    },
  };
});
