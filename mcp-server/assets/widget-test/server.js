'use strict';

// What the page asks of the server, in plain JSON-RPC, and what a host of widgets reads out of its answers.
//
// What must stay true: it talks to the server that served it, and to nobody else.

/** Why something could not be had or was not done, in words for a person. */
class Refusal extends Error {
  constructor(message, code, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

const server = {
  MCP_APP: 'text/html;profile=mcp-app',
  SKYBRIDGE: 'text/html+skybridge',

  tools: [],
  /** The widgets that are listed; ones that were listed once can be read all the same. */
  widgets: [],
  /** Who answered last, as the server's headers say. */
  release: { color: null, build: null },
  lastId: 0,

  /** A conversation and a person of our own, as ChatGPT names them: without meaning, and the same in every call. */
  session: unique(),
  subject: unique(),

  async connect() {
    const [tools, resources] = await Promise.all([server.all('tools/list', 'tools'), server.all('resources/list', 'resources')]);
    server.tools = tools;
    server.widgets = resources.filter(({ mimeType }) => [server.MCP_APP, server.SKYBRIDGE].includes(mimeType));
  },

  async all(method, key) {
    const found = [];
    let cursor;
    do {
      const page = await server.request(method, cursor && { cursor }).catch((error) => {
        // A server without resources has no such method, and that is an answer.
        if (error.code === -32601) return {};
        throw error;
      });
      found.push(...(page[key] ?? []));
      cursor = page.nextCursor;
    } while (cursor);
    return found;
  },

  async request(method, params = {}, signal = undefined) {
    server.lastId += 1;
    const id = server.lastId;
    const started = performance.now();
    const entry = { from: 'host', to: 'server', method, id };
    log.add({ ...entry, kind: 'request', body: params });
    const answered = { ...entry, from: 'server', to: 'host' };
    try {
      const result = await server.post({ jsonrpc: '2.0', id, method, params }, signal);
      log.add({ ...answered, kind: result?.isError ? 'error' : 'answer', body: result, ms: performance.now() - started });
      return result;
    } catch (error) {
      const { message, code, data } = error;
      log.add({ ...answered, kind: 'error', body: { message, code, data }, ms: performance.now() - started });
      throw error;
    }
  },

  async post(message, signal) {
    const headers = { 'content-type': 'application/json', accept: 'application/json' };
    let answer;
    try {
      answer = await fetch('/mcp', { method: 'POST', headers, body: JSON.stringify(message), signal, cache: 'no-store' });
    } catch (error) {
      if (error.name === 'AbortError') throw new Refusal('the call was cancelled');
      throw new Refusal('the server cannot be reached');
    }
    server.release = { color: answer.headers.get('release-color'), build: answer.headers.get('release-build') };
    const text = await answer.text();
    let said;
    try {
      said = JSON.parse(text);
    } catch {
      throw new Refusal(`the server answered ${answer.status}, and not in JSON`, undefined, text.slice(0, 500));
    }
    if (said.error) throw new Refusal(said.error.message, said.error.code, said.error.data);
    if (!said.result) throw new Refusal(`the server answered ${answer.status} without a result`, undefined, said);
    return said.result;
  },

  /** Calls a tool with what ChatGPT tells a server of its user. */
  call(name, args, meta, signal) {
    const hints = {
      'openai/locale': host.locale,
      'openai/userAgent': host.USER_AGENT,
      'openai/userLocation': { timezone: host.timeZone },
      'openai/session': server.session,
      'openai/subject': server.subject,
    };
    return server.request('tools/call', { name, arguments: args, _meta: { ...meta, ...hints } }, signal);
  },

  /** A widget as it is served: its document, and what is said of it. What comes with the document goes before the list. */
  async read(address) {
    const { contents = [] } = await server.request('resources/read', { uri: address });
    const [content] = contents;
    if (!content) throw new Refusal(`nothing is behind ${address}`);
    const bytes = () => Uint8Array.from(atob(content.blob), (letter) => letter.charCodeAt(0));
    const html = content.text ?? new TextDecoder().decode(bytes());
    const listed = server.widgets.find(({ uri }) => uri === address);
    return { address, html, mimeType: content.mimeType, meta: { ...listed?._meta, ...content._meta } };
  },

  // === What the answers mean ===

  tool(name) {
    return server.tools.find((tool) => tool.name === name);
  },

  /** The address of a tool's widget, in any of the spellings that hosts know. */
  widgetOf(tool) {
    const meta = tool?._meta ?? {};
    return meta.ui?.resourceUri ?? meta['ui/resourceUri'] ?? meta['openai/outputTemplate'] ?? null;
  },

  /** The document that a host of this kind draws: one that offers nothing but `window.openai` has an address of its own. */
  addressFor(tool, bridge) {
    const address = server.widgetOf(tool);
    if (bridge !== 'openai' || !address) return address;
    const sibling = address.replace(/(\.skybridge)?\.html$/, '.skybridge.html');
    return server.widgets.some(({ uri }) => uri === sibling) ? sibling : address;
  },

  /** Whether a widget may call a tool, in the language in which it asks. */
  isCallable(tool, language) {
    const meta = tool._meta ?? {};
    if (language === 'openai') return meta['openai/widgetAccessible'] === true;
    return (meta.ui?.visibility ?? ['model', 'app']).includes('app');
  },

  isReadOnly(tool) {
    return tool?.annotations?.readOnlyHint === true;
  },

  /** Arguments to begin with: what a schema insists on, and what it has examples of. */
  example(schema, root = schema) {
    if (typeof schema !== 'object' || schema === null) return null;
    if (schema.$ref?.startsWith('#/')) {
      const named = schema.$ref.slice(2).split('/').reduce((part, key) => part?.[key], root);
      return server.example(named, root);
    }
    const said = schema.examples?.[0] ?? schema.default ?? schema.const ?? schema.enum?.find((value) => value !== null);
    if (said !== undefined && said !== null) return said;
    const choice = (schema.anyOf ?? schema.oneOf ?? []).find(({ type }) => type !== 'null');
    if (choice) return server.example(choice, root);
    const type = [schema.type].flat().find((type) => type !== 'null') ?? (schema.properties ? 'object' : undefined);
    const now = new Date().toISOString();
    switch (type) {
      case 'object': {
        const isWanted = ([key, { examples }]) => schema.required?.includes(key) || examples;
        const wanted = Object.entries(schema.properties ?? {}).filter(isWanted);
        return Object.fromEntries(wanted.map(([key, property]) => [key, server.example(property, root)]));
      }
      case 'array': return [];
      case 'boolean': return false;
      case 'number': case 'integer': return schema.minimum ?? 0;
      case 'string': return { date: now.slice(0, 10), 'date-time': now }[schema.format] ?? '';
      default: return null;
    }
  },
};

/** Letters that nobody has used before. `randomUUID` is not there on a page that is not secure, and this one may not be. */
function unique() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
