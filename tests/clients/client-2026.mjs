// The official v2 client, pinned to the 2026-07-28 revision: a server that cannot speak it is an error, not a fallback.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { emit, observingFetch, readOptions, run } from "./caller.mjs";

const options = readOptions();
// As long as a client waits before it asks again after a stream ended; short, because tests wait for it.
const LISTEN_AGAIN_MS = 100;

await run(options, async () => {
  const client = new Client(
    { name: "client-2026", version: "1.0.0" },
    { versionNegotiation: { mode: { pin: "2026-07-28" }, probe: { timeoutMs: options.timeout } } },
  );
  client.onerror = (error) => process.stderr.write(`client: ${error.message}\n`);
  const transport = new StreamableHTTPClientTransport(options.url, { fetch: observingFetch(options) });
  await client.connect(transport);

  let leaving = false;
  let subscription;
  return {
    client,
    call: (params, request) => client.callTool(params, request),
    facts: () => ({
      protocolVersion: client.getNegotiatedProtocolVersion(),
      era: client.getProtocolEra(),
      serverInfo: client.getServerVersion(),
      capabilities: client.getServerCapabilities(),
    }),
    async open() {
      const filter = { toolsListChanged: true, resourcesListChanged: true };
      let refused = false;
      do {
        try {
          subscription = await client.listen(filter, { timeout: options.timeout });
          refused = false;
          emit("stream-open", { honored: subscription.honoredFilter });
          emit("stream-end", { how: await subscription.closed });
        } catch (error) {
          // Once per outage: a refusal that is asked again ten times a second is not ten news.
          if (!refused) emit("stream-refused", { code: error.code ?? null, message: error.message });
          refused = true;
          // Without a stream there is nothing that could end; only stdin decides.
          if (!options.reconnect) return new Promise(() => {});
        }
        await new Promise((resolve) => setTimeout(resolve, LISTEN_AGAIN_MS));
      } while (options.reconnect && !leaving);
    },
    async close() {
      leaving = true;
      await subscription?.close();
      await client.close();
    },
  };
});
