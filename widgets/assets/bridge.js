'use strict';

// What a widget knows of the host that draws it, whichever of two languages the host speaks: MCP Apps (JSON-RPC to the
// parent window, protocol 2026-01-26) or ChatGPT's `window.openai`. A host that answers `ui/initialize` is asked for data
// and calls; `window.openai`, where there is one, keeps the widget's state, which MCP Apps has no place for.
//
// What must stay true: nothing is believed but what the parent window says, and a host that lacks something, refuses it or
// never answers costs the widget that one thing and no more.

/**
 * Begins to talk to the host. Beside its methods, what it returns has `connection` ('pending', then 'mcp-apps', 'openai' or
 * 'none'), `toolInput`, `toolOutput` (structured content), `toolMeta` (`_meta`), `toolError` (words, when there is nothing to
 * draw), `theme`, `locale`, `timeZone`, `displayMode`, `displayModes`, `safeArea` and `state`. It says when they change: 'tool',
 * 'cancelled' (with a reason), 'context', 'state', 'connection', 'teardown'.
 */
function connectHost({ name, version, displayModes }) {
  // A host that speaks MCP Apps listens before it loads us, so with `window.openai` at hand we wait for a moment only.
  // Without it we have nobody else to turn to. A later answer still counts.
  const PATIENCE_MS = window.openai ? 400 : 3000;
  const DEADLINE_MS = 10_000;
  // Long, because a host may ask its user first whether we may.
  const CALL_DEADLINE_MS = 120_000;
  // Of a burst of changes the model is told the last.
  const TELL_MODEL_AFTER_MS = 400;

  const listeners = new EventTarget();
  const requests = new Map();
  const root = document.documentElement;
  let [lastId, toolCall, nextInput, heardResult, ownResult] = [0, null, null, false, null];
  let [hostCapabilities, telling, size] = [{}, 0, ''];
  let decide;

  const host = {
    connection: 'pending',
    toolInput: null, toolOutput: null, toolMeta: null, toolError: null,
    theme: null, locale: navigator.language, timeZone: null,
    displayMode: 'inline', displayModes: [],
    safeArea: { top: 0, right: 0, bottom: 0, left: 0 },
    state: null,

    /** Resolves when it is known whom to ask. */
    ready: new Promise((resolve) => { decide = resolve; }),

    on(event, listener) {
      listeners.addEventListener(event, ({ detail }) => listener(detail));
    },

    /**
     * Calls a tool and resolves to its result, which may be an error of the tool; rejects when there was no answer.
     * `meta` goes along where it can: `window.openai` has no place for it.
     */
    async callTool(tool, args, meta) {
      const params = { name: tool, arguments: args, ...(meta && { _meta: meta }) };
      const result = await either(['tools/call', params], ['callTool', tool, args], CALL_DEADLINE_MS);
      ownResult = JSON.stringify(result?.structuredContent);
      // Early hosts answer with the text alone.
      return typeof result?.result === 'string' ? { content: [{ type: 'text', text: result.result }], ...result } : result;
    },

    /** Keeps what the user has chosen, and lets the model know of it. */
    async setState(state) {
      host.state = state;
      await host.ready;
      if (window.openai?.setWidgetState) {
        await quietly(ask('setWidgetState', state));
        return;
      }
      keep(state);
      clearTimeout(telling);
      if (host.connection === 'mcp-apps') telling = setTimeout(tellModel, TELL_MODEL_AFTER_MS);
    },

    /** Says something in the conversation, as the user. */
    async sendMessage(text) {
      const message = { role: 'user', content: [{ type: 'text', text }] };
      await either(['ui/message', message], ['sendFollowUpMessage', { prompt: text }]);
    },

    /** Asks to be drawn 'inline', 'fullscreen' or 'pip', and resolves to how we are drawn then. */
    async requestDisplayMode(mode) {
      if (host.displayModes.includes(mode)) {
        const granted = await either(['ui/request-display-mode', { mode }], ['requestDisplayMode', { mode }]);
        learn({ displayMode: granted?.mode });
      }
      return host.displayMode;
    },

    /** Opens a page outside of the conversation. */
    async openLink(url) {
      if (!/^(https?|mailto):/i.test(url)) throw new Error('only web pages and mail addresses are opened');
      await either(['ui/open-link', { url }], ['openExternal', { href: url }]);
    },
  };

  // === Asking ===

  /** Asks in the host's language, once it is known. */
  async function either([method, params], openai, deadline = DEADLINE_MS) {
    await host.ready;
    return host.connection === 'mcp-apps' ? request(method, params, deadline) : within(deadline, ask(...openai));
  }

  function request(method, params, deadline = DEADLINE_MS) {
    const id = ++lastId;
    const answer = new Promise((resolve, reject) => { requests.set(id, { resolve, reject }); });
    post({ id, method, params });
    return within(deadline, answer).finally(() => requests.delete(id));
  }

  function post(message) {
    // The parent's origin is not ours to know: hosts put us into sandboxes of many origins, or of none.
    window.parent.postMessage({ jsonrpc: '2.0', ...message }, '*');
  }

  async function ask(method, ...args) {
    if (typeof window.openai?.[method] !== 'function') throw new Error('the host does not offer this');
    return window.openai[method](...args);
  }

  function within(deadline, answer) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('the host did not answer in time')), deadline);
    });
    return Promise.race([answer, late]).finally(() => clearTimeout(timer));
  }

  function quietly(promise) {
    return promise.catch(() => undefined);
  }

  // === Listening ===

  const notifications = {
    'ui/notifications/tool-input': ({ arguments: input = {} }) => {
      // After a result it belongs to the next one, and must not be taken for the question to the last.
      if (heardResult) nextInput = input;
      else hear({ toolInput: input });
    },
    'ui/notifications/tool-result': (result) => {
      heardResult = true;
      const toolInput = nextInput ?? host.toolInput;
      nextInput = null;
      const words = (result.content ?? []).filter(({ type }) => type === 'text').map(({ text }) => text).join('\n');
      const isDrawn = !result.isError && result.structuredContent;
      const toolError = isDrawn ? null : words || 'The tool has answered nothing.';
      hear({ toolInput, toolOutput: isDrawn ? result.structuredContent : null, toolMeta: result._meta ?? null, toolError });
    },
    'ui/notifications/tool-cancelled': ({ reason }) => emit('cancelled', reason),
    'ui/notifications/host-context-changed': learn,
    // `tool-input-partial` is half a sentence, closed so that it parses: enough to wait with, not to act on.
  };

  const answers = { ping: () => undefined, 'ui/resource-teardown': () => emit('teardown') };

  function listen({ source, data }) {
    if (source !== window.parent || data?.jsonrpc !== '2.0') return;
    const { id, method, params, result, error } = data;
    if (method === undefined) {
      if (error) requests.get(id)?.reject(new Error(error.message || 'the host refused'));
      else requests.get(id)?.resolve(result);
    } else if (id === undefined) {
      notifications[method]?.(params ?? {});
    } else if (answers[method]) {
      answers[method]();
      post({ id, result: {} });
    } else {
      post({ id, error: { code: -32601, message: 'method not found' } });
    }
  }

  /** Takes what is new of the tool's call, and says so if anything is. */
  function hear(news) {
    // Some hosts tell a widget of the calls it makes itself.
    if (news.toolOutput && JSON.stringify(news.toolOutput) === ownResult) return;
    const call = () => JSON.stringify([host.toolInput, host.toolOutput, host.toolMeta, host.toolError]);
    const before = call();
    Object.assign(host, news);
    if (!window.openai) host.state ??= recall();
    if (call() !== before) emit('tool');
  }

  /** Takes what is new of the host, which tells a part of it at a time. */
  function learn(context) {
    for (const key of ['theme', 'locale', 'timeZone', 'displayMode']) host[key] = context[key] ?? host[key];
    host.displayModes = (context.availableDisplayModes ?? host.displayModes).filter((mode) => displayModes.includes(mode));
    host.safeArea = { ...host.safeArea, ...context.safeAreaInsets };
    toolCall = context.toolInfo?.id ?? toolCall;
    if (host.theme) root.dataset.theme = host.theme;
    root.dataset.displayMode = host.displayMode;
    for (const [side, pixels] of Object.entries(host.safeArea)) root.style.setProperty(`--safe-${side}`, `${pixels}px`);
    for (const [key, value] of Object.entries(context.styles?.variables ?? {})) {
      if (key.startsWith('--') && value) root.style.setProperty(key, value);
    }
    emit('context');
    measure();
  }

  /** Reads `window.openai`: all of it at first, and later only what a host that answers us has not said better. */
  function readOpenai() {
    if (!window.openai) return;
    const { theme, locale, displayMode, safeArea, toolInput, toolOutput, toolResponseMetadata, widgetState } = window.openai;
    if (host.connection === 'none') connect('openai');
    if (host.connection !== 'mcp-apps') {
      const availableDisplayModes = window.openai.requestDisplayMode ? displayModes : [];
      learn({ theme, locale, displayMode, availableDisplayModes, safeAreaInsets: safeArea?.insets });
    }
    if (widgetState && JSON.stringify(widgetState) !== JSON.stringify(host.state)) {
      host.state = widgetState;
      emit('state');
    }
    // A frame that was loaded late hears no result, and finds it here.
    if (heardResult) return;
    hear({ toolInput: toolInput ?? host.toolInput, toolOutput: toolOutput ?? null, toolMeta: toolResponseMetadata ?? null });
  }

  function emit(event, detail) {
    listeners.dispatchEvent(new CustomEvent(event, { detail }));
  }

  // === State, where the host keeps none ===

  function tellModel() {
    const offered = hostCapabilities.updateModelContext;
    const inWords = offered && !offered.structuredContent;
    const words = [{ type: 'text', text: JSON.stringify(host.state) }];
    quietly(request('ui/update-model-context', inWords ? { content: words } : { structuredContent: host.state }));
  }

  // A conversation may show a widget many times; each time has its own call.
  function shelf() {
    return `widget ${name} ${JSON.stringify([toolCall, host.toolInput])}`;
  }

  // A sandbox without an origin has no storage, and says so by throwing: the state is then gone with the page.
  function keep(state) {
    try { sessionStorage.setItem(shelf(), JSON.stringify(state)); } catch { /* As said. */ }
  }

  function recall() {
    try { return JSON.parse(sessionStorage.getItem(shelf())); } catch { return null; }
  }

  // === Size ===

  function measure() {
    // At full screen it is the host's.
    if (host.connection === 'pending' || host.displayMode === 'fullscreen') return;
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    const width = window.innerWidth;
    if (size === `${host.connection} ${width} ${height}`) return;
    size = `${host.connection} ${width} ${height}`;
    if (host.connection === 'mcp-apps') post({ method: 'ui/notifications/size-changed', params: { width, height } });
    else quietly(ask('notifyIntrinsicHeight', height));
  }

  // === Beginning ===

  function connect(connection) {
    host.connection = connection;
    decide();
    emit('connection');
    measure();
  }

  async function begin() {
    window.addEventListener('message', listen);
    window.addEventListener('openai:set_globals', readOpenai);
    new ResizeObserver(() => requestAnimationFrame(measure)).observe(document.body);
    // The caller first has a turn to listen.
    await null;
    readOpenai();
    setTimeout(() => { if (host.connection === 'pending') connect(window.openai ? 'openai' : 'none'); }, PATIENCE_MS);
    if (window.parent === window) return;
    const appCapabilities = { availableDisplayModes: displayModes };
    const params = { appInfo: { name, version }, appCapabilities, protocolVersion: '2026-01-26' };
    const welcome = await request('ui/initialize', params, CALL_DEADLINE_MS);
    hostCapabilities = welcome?.hostCapabilities ?? {};
    // Before anything else that we send: until it has heard this, a host may refuse everything.
    post({ method: 'ui/notifications/initialized', params: {} });
    // And before we say how large we are: that depends on how we are drawn.
    learn(welcome?.hostContext ?? {});
    connect('mcp-apps');
  }

  quietly(begin());
  return host;
}
