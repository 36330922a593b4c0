// What both clients do once they know how to connect: read the arguments, call the tool, hold the streams, tell the story.
// stdout carries nothing but JSON: one document, or one line per event under --hold. What a person should read goes to stderr.

import { AsyncLocalStorage } from "node:async_hooks";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const OPTIONS = {
  url: { type: "string" },
  tool: { type: "string", default: "search_appointments" },
  args: { type: "string", default: "{}" },
  calls: { type: "string", default: "1" },
  concurrency: { type: "string", default: "1" },
  timeout: { type: "string", default: "30000" },
  header: { type: "string", multiple: true, default: [] },
  hold: { type: "boolean", default: false },
  progress: { type: "boolean", default: false },
  reconnect: { type: "boolean", default: false },
  session: { type: "string" },
  "keep-session": { type: "boolean", default: false },
};

export const USAGE = `--url URL           the server's /mcp address
  --tool NAME         the tool to call (default: search_appointments)
  --args JSON         its arguments (default: {})
  --calls N           how often (default: 1; 0 only connects and lists)
  --concurrency C     how many calls at a time (default: 1)
  --timeout MS        how long one request may take (default: 30000)
  --header NAME       report this response header with every call; may be repeated
  --hold              keep the streams open and print events, one JSON line each, until stdin closes or the server
                      ends the stream; each line on stdin is one more call with that JSON (an empty line: with --args)
  --progress          with --hold: ask for progress, and print an event each time
  --reconnect         with --hold: open an ended stream again and go on until stdin closes
  --session ID        only 2025-11-25: go on with a session another client began
  --keep-session      only 2025-11-25: leave without ending the session`;

// Each call runs in its own context, so that a response's headers find the call they belong to.
const current = new AsyncLocalStorage();

/** Reads the command line; a mistake in it ends the process with 64. */
export function readOptions(argv = process.argv.slice(2)) {
  try {
    const { values } = parseArgs({ args: argv, options: OPTIONS });
    if (!values.url) throw new Error("--url is missing");
    return {
      ...values,
      url: new URL(values.url),
      args: JSON.parse(values.args),
      calls: wholeNumber("calls", values.calls, 0),
      concurrency: wholeNumber("concurrency", values.concurrency, 1),
      timeout: wholeNumber("timeout", values.timeout, 1),
    };
  } catch (error) {
    process.stderr.write(`${error.message}\n\nOptions:\n  ${USAGE}\n`);
    process.exit(64);
  }
}

function wholeNumber(name, text, least) {
  const number = Number(text);
  if (!Number.isInteger(number) || number < least) throw new Error(`--${name} takes a whole number from ${least} on`);
  return number;
}

/** Prints one event line; every one carries its time, so that a test can order it against the server's log. */
export function emit(event, fields = {}) {
  print({ event, at: new Date().toISOString(), ...fields });
}

/** A `fetch` that notes who answered, and tells `watch` how each stream on a GET began and ended. */
export function observingFetch(options, watch = () => {}) {
  return async (url, init) => {
    const response = await fetch(url, init);
    const call = current.getStore();
    if (call) {
      call.status = response.status;
      for (const name of options.header) call.headers[name] = response.headers.get(name);
    }
    if ((init?.method ?? "GET") !== "GET") return response;

    const stream = response.ok && response.headers.get("content-type")?.startsWith("text/event-stream") && response.body;
    watch("answered", { status: response.status, stream: Boolean(stream) });
    return stream ? new Response(watched(stream, watch), response) : response;
  };
}

function watched(stream, watch) {
  const reader = stream.getReader();
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (!done) return controller.enqueue(value);
        watch("ended", { how: "graceful" });
        controller.close();
      } catch (error) {
        // An abort is our own close(); everything else was done to us.
        watch("ended", { how: error.name === "AbortError" ? "local" : "remote" });
        controller.error(error);
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}

/** Connects, lists, calls, and either reports once or holds; then closes. `connect` gives what a revision has of its own. */
export async function run(options, connect) {
  let connection;
  let failed = false;
  try {
    connection = await connect();
    const { tools } = await connection.client.listTools(undefined, { timeout: options.timeout });
    const opening = { ...connection.facts(), tools };
    if (options.hold) {
      emit("connected", { ...opening, tools: tools.map((tool) => tool.name) });
      failed = await hold(options, connection);
    } else {
      const calls = await callAll(options, connection);
      const { result, error } = calls[0] ?? {};
      print({ ...opening, result, error, calls: calls.map(({ result, ...call }) => ({ ...call, isError: result?.isError ?? false })) });
      failed = calls.some((call) => call.error);
    }
  } catch (error) {
    const told = tell(error);
    options.hold ? emit("failed", { error: told }) : print({ error: told });
    failed = true;
  }
  await connection?.close().catch((error) => {
    failed = true;
    process.stderr.write(`closing failed: ${error.message}\n`);
  });
  if (options.hold) {
    emit("closed");
    process.stdin.destroy();
  }
  // Not process.exit(): it would cut off what the pipe has not taken yet.
  process.exitCode = failed ? 1 : 0;
}

async function callAll(options, connection, report = () => {}) {
  const calls = [];
  let next = 0;
  const caller = async () => {
    while (next < options.calls) {
      const index = next++;
      report((calls[index] = await callOnce(options, connection, options.args)));
    }
  };
  await Promise.all(Array.from({ length: Math.min(options.concurrency, options.calls) }, caller));
  return calls;
}

function callOnce(options, { call }, args) {
  const record = { ms: 0, status: null, headers: {} };
  const started = performance.now();
  return current.run(record, async () => {
    try {
      const onprogress = options.progress ? (progress) => emit("progress", progress) : undefined;
      record.result = await call({ name: options.tool, arguments: args }, { timeout: options.timeout, onprogress });
    } catch (error) {
      record.error = tell(error);
    }
    record.ms = Math.round((performance.now() - started) * 1000) / 1000;
    return record;
  });
}

async function hold(options, connection) {
  const stdin = createInterface({ input: process.stdin });
  const left = new Promise((resolve) => stdin.once("close", resolve));
  const ended = connection.open();

  let failed = false;
  const report = ({ result, error, ...call }) => {
    failed ||= Boolean(error);
    emit(error ? "call-error" : "call-ok", { ...call, result, error });
  };
  const pending = new Set();
  const track = (work) => {
    pending.add(work);
    work.finally(() => pending.delete(work));
  };
  stdin.on("line", (line) => {
    try {
      const args = line.trim() ? JSON.parse(line) : options.args;
      track(callOnce(options, connection, args).then(report));
    } catch (error) {
      report({ error: tell(error) });
    }
  });
  track(callAll(options, connection, report));

  await Promise.race([left, ended]);
  // A call that is under way gets its answer before we leave.
  await Promise.all(pending);
  stdin.close();
  return failed;
}

function tell(error) {
  const cause = error.cause?.code ?? error.cause?.message;
  return { name: error.name, code: error.code ?? null, message: error.message, data: error.data, ...(cause && { cause }) };
}

function print(document) {
  process.stdout.write(`${JSON.stringify(document)}\n`);
}
