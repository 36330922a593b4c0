'use strict';

// What a host is to a widget: the circumstances it tells of, and what it does when it is asked, in MCP Apps' language
// (protocol 2026-01-26) and in that of `window.openai`.
//
// What must stay true: a widget gets what a host would give it and no more. It calls the tools that are open to it, it opens
// no page by itself, and whatever it asks for is seen here.

const host = {
  PROTOCOL: '2026-01-26',
  INFO: { name: 'widget-test', title: 'Widget test', version: '1' },
  USER_AGENT: 'widget-test/1',
  MODES: ['inline', 'pip', 'fullscreen'],
  // As tall as a widget may become in a conversation before it scrolls in itself.
  MAX_HEIGHT: { inline: 1600, pip: 480 },

  theme: 'light',
  locale: navigator.language,
  timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone,
  displayMode: 'inline',

  /** The circumstances, as MCP Apps words them. */
  context(view) {
    const isFull = view.mode() === 'fullscreen';
    const { width, height } = view.box.getBoundingClientRect();
    const [wide, tall] = [Math.round(width), Math.round(height)];
    return {
      toolInfo: view.call.tool && { id: view.call.id, tool: view.call.tool },
      theme: host.theme,
      styles: { variables: host.style() },
      displayMode: view.mode(),
      availableDisplayModes: host.MODES,
      containerDimensions: isFull ? { width: wide, height: tall } : { width: wide, maxHeight: host.MAX_HEIGHT[view.mode()] },
      locale: host.locale,
      timeZone: host.timeZone,
      userAgent: host.USER_AGENT,
      platform: 'web',
      deviceCapabilities: host.device(),
      safeAreaInsets: { top: 0, right: 0, bottom: 0, left: 0 },
    };
  },

  /** The same, and the tool's call, as `window.openai` has them. */
  globals(view) {
    const { call } = view;
    return {
      theme: host.theme,
      locale: host.locale,
      userAgent: { device: { type: 'desktop' }, capabilities: host.device() },
      displayMode: view.mode(),
      maxHeight: view.mode() === 'fullscreen' ? Math.round(view.box.clientHeight) : host.MAX_HEIGHT[view.mode()],
      safeArea: { insets: { top: 0, right: 0, bottom: 0, left: 0 } },
      view: { mode: view.isModal ? 'modal' : 'inline', params: view.params },
      widgetState: call.state,
      ...host.answered(call),
    };
  },

  /** What a call has come to, as `window.openai` has it. */
  answered({ args, result, widgetSession }) {
    const session = { 'openai/widgetSessionId': widgetSession };
    const whole = { status: 'completed', mcp_tool_result: result, call_tool_result: result };
    return {
      toolInput: args,
      toolOutput: result?.structuredContent ?? null,
      // Widgets read what is theirs alone at the top of it, newer ones inside of the whole result.
      toolResponseMetadata: result && { ...result._meta, ...session, ...whole },
    };
  },

  /** The page's own style: the names are those that MCP Apps has for a host's. */
  style() {
    const sheet = getComputedStyle(document.documentElement);
    const isStandard = (name) => /^--(color|font|border|shadow)-/.test(name);
    const [root] = [...document.styleSheets[0].cssRules].filter(({ selectorText }) => selectorText === ':root');
    const names = [...root.style].filter(isStandard);
    return Object.fromEntries(names.map((name) => [name, sheet.getPropertyValue(name).trim()]));
  },

  device() {
    return { touch: navigator.maxTouchPoints > 0, hover: matchMedia('(hover: hover)').matches };
  },

  capabilities(view) {
    const permissions = view.document.meta.ui?.permissions;
    return {
      openLinks: {},
      downloadFile: {},
      serverTools: {},
      serverResources: {},
      logging: {},
      message: { text: {} },
      updateModelContext: { text: {}, structuredContent: {} },
      sandbox: { csp: documents.domains(view.document.meta), ...(permissions && { permissions }) },
    };
  },

  // === What it does ===

  async callTool(view, name, args, meta, language) {
    const tool = server.tool(name);
    if (!tool) throw new Refusal(`there is no tool ${name}`, -32602);
    if (!server.isCallable(tool, language)) {
      const missing = { openai: '"openai/widgetAccessible": true', 'json-rpc': '"app" in ui.visibility' }[language];
      throw new Refusal(`a widget may not call ${name}: its _meta has no ${missing}`, -32000);
    }
    const result = await server.call(name, args ?? {}, { ...meta, 'openai/widgetSessionId': view.call.widgetSession });
    // `openai/closeWidget` in a result ends the widget that has called.
    if (result._meta?.['openai/closeWidget'] === true) stage.close(view, 'the tool asked for it');
    return result;
  },

  /** Changes how the widget is drawn, if both sides can, and says how it is drawn then. */
  requestDisplayMode(view, mode) {
    if (!view.isModal && host.MODES.includes(mode) && view.supports(mode)) stage.display(mode);
    return { mode: view.mode() };
  },

  /** An address that may be opened; a script, for one, may not. */
  link(url) {
    const isLink = URL.canParse(url) && ['http:', 'https:', 'mailto:'].includes(new URL(url).protocol);
    if (!isLink) throw new Refusal(`this is not the address of a page: ${url}`, -32602);
    return url;
  },
};

/** What a widget may ask in MCP Apps' language; each resolves to the result of the request. */
const requests = {
  ping: () => ({}),

  'ui/initialize': (view, { appInfo, appCapabilities }) => {
    view.meet(appInfo, appCapabilities ?? {});
    const hostCapabilities = host.capabilities(view);
    return { protocolVersion: host.PROTOCOL, hostInfo: host.INFO, hostCapabilities, hostContext: host.context(view) };
  },

  'tools/call': (view, { name, arguments: args, _meta }) => host.callTool(view, name, args, _meta, 'json-rpc'),

  'resources/read': (view, { uri }) => server.request('resources/read', { uri }),

  'ui/message': (view, { role, content }) => {
    const words = [content ?? []].flat().filter(({ type }) => type === 'text').map(({ text }) => text).join('\n');
    if (role !== 'user' || !words) throw new Refusal('a message is text, and said by the user', -32602);
    stage.say(words);
    return {};
  },

  'ui/open-link': (view, { url }) => {
    stage.offerLink(host.link(url));
    return {};
  },

  'ui/download-file': (view, { contents = [] }) => {
    const files = contents.filter(({ type }) => type === 'resource').map(({ resource }) => resource);
    for (const file of files) stage.offerFile(file);
    return files.length ? {} : { isError: true };
  },

  'ui/request-display-mode': (view, { mode }) => host.requestDisplayMode(view, mode),

  'ui/update-model-context': (view, { content, structuredContent }) => {
    view.call.modelContext = { content, structuredContent };
    panes.draw();
    return {};
  },
};

/** What a widget may tell in MCP Apps' language. Log messages are in the log already. */
const notifications = {
  'ui/notifications/initialized': (view) => view.begin(),
  'ui/notifications/size-changed': (view, { height }) => view.resize(height),
  'ui/notifications/request-teardown': (view) => stage.close(view, 'the widget asked for it'),
  'notifications/message': () => undefined,
};

const NO_FILES = 'is not available here: this page has no place for files';

/** What a widget may ask in the language of `window.openai`; each resolves to what the function does. */
const openaiMethods = {
  async callTool(view, name, args) {
    const result = await host.callTool(view, name, args, undefined, 'openai');
    const texts = (result.content ?? []).filter(({ type }) => type === 'text').map(({ text }) => text);
    // Early widgets read nothing but the text.
    return { ...result, result: texts.join('\n') };
  },

  setWidgetState(view, state) {
    view.call.state = state ?? null;
    stage.share(view.call);
    panes.draw();
  },

  sendFollowUpMessage(view, { prompt } = {}) {
    if (typeof prompt !== 'string' || !prompt) throw new Refusal('sendFollowUpMessage takes { prompt }, a text');
    stage.say(prompt);
  },

  requestDisplayMode: (view, { mode } = {}) => host.requestDisplayMode(view, mode),
  requestModal: (view, options = {}) => stage.openModal(view, options),
  requestClose: (view) => stage.close(view, 'the widget asked for it'),
  notifyIntrinsicHeight: (view, height) => view.resize(height),
  openExternal: (view, { href } = {}) => stage.offerLink(host.link(href)),

  setOpenInAppUrl(view, { href } = {}) {
    stage.offerApp(href ? host.link(href) : null);
  },

  uploadFile: () => { throw new Refusal(`uploadFile ${NO_FILES}`); },
  selectFiles: () => { throw new Refusal(`selectFiles ${NO_FILES}`); },
  getFileDownloadUrl: () => { throw new Refusal(`getFileDownloadUrl ${NO_FILES}`); },
  requestCheckout: () => { throw new Refusal('requestCheckout is not available here: nothing is sold on this page'); },
};
