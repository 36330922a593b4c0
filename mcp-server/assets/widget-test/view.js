'use strict';

// A widget in its frame: how it is put there, what passes between it and the host, and how it is taken away.
//
// What must stay true: nothing is believed but what the frame itself says; a widget is told nothing before it says that it is
// ready, and is asked before it is taken away.

class View {
  /** How long a widget may take to put its things in order before it is taken away. */
  static LAST_WORDS_MS = 1000;

  static all = new Set();

  /** `bridge`: 'mcp-apps', 'openai' or 'both'. A modal is a second view of the same call, with parameters of its own. */
  constructor({ box, call, bridge, isModal = false, params = null, onChange = () => {} }) {
    Object.assign(this, { box, call, bridge, isModal, params, onChange });
    Object.assign(this, { frame: null, document: null, modes: null, phase: 'loading', asked: new Map(), lastId: 0 });
    this.forget();
  }

  /** Nothing has passed yet: the document is new. */
  forget() {
    Object.assign(this, { isWritten: false, isInitialized: false, toldInput: false, toldOutcome: false, toldContext: null });
    Object.assign(this, { saysItsHeight: false, knownGlobals: {} });
  }

  speaksMcpApps() {
    return this.bridge !== 'openai';
  }

  speaksOpenai() {
    return this.bridge !== 'mcp-apps';
  }

  mode() {
    return this.isModal ? 'inline' : host.displayMode;
  }

  /** Whether the widget can be drawn so. One that does not say can be drawn in every way. */
  supports(mode) {
    return !this.modes || this.modes.includes(mode);
  }

  // === Coming and going ===

  /** Draws a document that the server has given. */
  open(document) {
    this.document = document;
    this.frame = window.document.createElement('iframe');
    // Without an origin of its own it reaches nothing of this page or of this server.
    this.frame.sandbox.add('allow-scripts', 'allow-forms');
    this.frame.allow = documents.permissions(document.meta);
    this.frame.src = '/widget-test/frame';
    this.frame.title = this.isModal ? 'Widget, in a dialog' : 'Widget';
    this.frame.dataset.testid = this.isModal ? 'modal-frame' : 'widget-frame';
    View.all.add(this);
    this.watched = new ResizeObserver(() => this.tell());
    this.watched.observe(this.box);
    delete this.box.dataset.sized;
    this.box.replaceChildren(this.frame);
    this.box.classList.toggle('is-bordered', documents.hasBorder(document.meta));
  }

  /** The frame is there, or there again because the widget has loaded it anew. */
  write() {
    this.forget();
    const globals = host.globals(this);
    this.know(globals);
    const html = documents.compose(this.document, this.speaksOpenai() && globals);
    this.post({ jsonrpc: '2.0', method: 'ui/notifications/sandbox-resource-ready', params: { html } });
    this.isWritten = true;
    // Whoever speaks `window.openai` alone never says that it is ready.
    this.become(this.speaksMcpApps() ? 'loading' : 'ready');
  }

  /** Takes the widget away, once it has heard of it. */
  async close(reason) {
    if (!this.frame) return;
    this.watched.disconnect();
    if (this.isInitialized) {
      const late = new Promise((resolve) => { setTimeout(resolve, View.LAST_WORDS_MS); });
      await Promise.race([this.ask('ui/resource-teardown', { reason }).catch(() => undefined), late]);
    }
    View.all.delete(this);
    this.frame.remove();
    this.frame = null;
    this.become('closed');
  }

  become(phase) {
    this.phase = phase;
    this.onChange(this);
  }

  /** The widget has introduced itself. */
  meet(appInfo, { availableDisplayModes }) {
    this.name = appInfo?.name;
    this.modes = Array.isArray(availableDisplayModes) ? availableDisplayModes : null;
    // A host must not draw a widget in a way that it does not know.
    if (!this.supports(this.mode())) stage.display('inline');
    this.toldContext = JSON.stringify(host.context(this));
    this.onChange(this);
  }

  /** The widget is ready to be told. */
  begin() {
    this.isInitialized = true;
    this.become('ready');
    this.tellCall();
    this.tell();
  }

  resize(height) {
    if (!Number.isFinite(height) || height < 0) return;
    this.saysItsHeight = true;
    this.setHeight(height);
  }

  setHeight(height) {
    this.frame?.style.setProperty('--height', `${Math.ceil(height)}px`);
    this.box.dataset.sized = 'true';
  }

  // === Telling ===

  /** Tells what the call has come to, as far as it has come to something. */
  tellCall() {
    const { call } = this;
    if (this.isInitialized) {
      if (!this.toldInput && call.args) {
        this.toldInput = true;
        this.notify('ui/notifications/tool-input', { arguments: call.args });
      }
      if (!this.toldOutcome && (call.result || call.failure)) {
        this.toldOutcome = true;
        if (call.result) this.notify('ui/notifications/tool-result', call.result);
        else this.notify('ui/notifications/tool-cancelled', { reason: call.failure });
      }
    }
    this.set(host.answered(call));
  }

  /** Tells how the circumstances have changed since they were told last. */
  tell() {
    if (this.isInitialized) {
      const [before, now] = [JSON.parse(this.toldContext ?? '{}'), host.context(this)];
      const isNew = ([key, value]) => JSON.stringify(value) !== JSON.stringify(before[key]);
      const news = Object.fromEntries(Object.entries(now).filter(isNew));
      this.toldContext = JSON.stringify(now);
      if (Object.keys(news).length) this.notify('ui/notifications/host-context-changed', news);
    }
    const { theme, locale, displayMode, maxHeight, safeArea } = host.globals(this);
    this.set({ theme, locale, displayMode, maxHeight, safeArea });
  }

  /** The widget has these globals, from us or from itself. */
  know(globals) {
    for (const [key, value] of Object.entries(globals)) this.knownGlobals[key] = JSON.stringify(value);
  }

  /** Sets globals of `window.openai`, those of them that are new. */
  set(globals) {
    const isNew = ([key, value]) => JSON.stringify(value) !== this.knownGlobals[key];
    const news = Object.fromEntries(Object.entries(globals).filter(isNew));
    if (!this.speaksOpenai() || !this.isWritten || !Object.keys(news).length) return;
    this.know(news);
    this.note({ from: 'host', to: 'widget', kind: 'notification', method: 'openai:set_globals', body: news, language: 'openai' });
    this.post({ openai: 'set', globals: news });
  }

  notify(method, params) {
    this.note({ from: 'host', to: 'widget', kind: 'notification', method, body: params });
    this.post({ jsonrpc: '2.0', method, params });
  }

  ask(method, params) {
    this.lastId += 1;
    const id = this.lastId;
    this.note({ from: 'host', to: 'widget', kind: 'request', method, id, body: params });
    this.post({ jsonrpc: '2.0', id, method, params });
    return new Promise((resolve, reject) => { this.asked.set(id, { method, resolve, reject }); });
  }

  post(message) {
    // A frame without an origin can be addressed in no other way. It shows what we have put into it.
    this.frame?.contentWindow?.postMessage(message, '*');
  }

  // === Listening ===

  hear(data) {
    if (data?.jsonrpc === '2.0') {
      if (data.method === 'ui/notifications/sandbox-proxy-ready') this.write();
      else this.hearMessage(data);
    } else if (data?.openai === 'ask' && this.speaksOpenai()) {
      this.hearOpenai(data);
    } else if (data?.widgetTest === 'trouble') {
      this.note({ from: 'widget', to: 'host', kind: 'error', method: data.body?.what, body: data.body });
    } else if (data?.widgetTest === 'height') {
      if (!this.saysItsHeight) this.setHeight(data.body);
    }
  }

  async hearMessage({ id, method, params, result, error }) {
    const entry = { from: 'widget', to: 'host', method, id };
    if (!this.speaksMcpApps()) {
      this.note({ ...entry, kind: 'ignored', body: params });
    } else if (method === undefined) {
      const asked = this.asked.get(id);
      this.asked.delete(id);
      this.note({ ...entry, method: asked?.method ?? 'unasked', kind: error ? 'error' : 'answer', body: error ?? result });
      if (error) asked?.reject(new Error(error.message));
      else asked?.resolve(result);
    } else if (id === undefined) {
      this.note({ ...entry, kind: 'notification', body: params });
      if (Object.hasOwn(notifications, method)) notifications[method](this, params ?? {});
    } else {
      this.note({ ...entry, kind: 'request', body: params });
      await this.answer(entry, 'json-rpc', () => {
        if (!Object.hasOwn(requests, method)) throw new Refusal(`this host knows no ${method}`, -32601);
        return requests[method](this, params ?? {});
      }, (outcome) => ({ jsonrpc: '2.0', id, ...outcome }));
    }
  }

  async hearOpenai({ id, method, args: said }) {
    const args = Array.isArray(said) ? said : [];
    const entry = { from: 'widget', to: 'host', method, id };
    this.note({ ...entry, kind: 'request', body: args, language: 'openai' });
    // Who asks is there, whether or not it speaks the other language, too.
    if (this.phase === 'loading') this.become('ready');
    // It has set its own already.
    if (method === 'setWidgetState') this.know({ widgetState: args[0] ?? null });
    await this.answer(entry, 'openai', () => {
      if (!Object.hasOwn(openaiMethods, method)) throw new Refusal(`window.openai has no ${method}`);
      return openaiMethods[method](this, ...args);
    }, ({ result, error }) => ({ openai: 'answer', id, result, error: error?.message }));
  }

  /** Does what is asked and answers with what came of it, worded by `wrap`. */
  async answer({ method, id }, language, act, wrap) {
    const started = performance.now();
    const entry = { from: 'host', to: 'widget', method, id, language };
    let outcome;
    try {
      outcome = { result: await act() };
    } catch (error) {
      // A mistake of this page is one to the widget, too; here it is to be found.
      if (!(error instanceof Refusal)) console.error(error);
      outcome = { error: { code: error.code ?? -32000, message: error.message, data: error.data } };
    }
    const { result, error } = outcome;
    const kind = error || result?.isError ? 'error' : 'answer';
    this.note({ ...entry, kind, body: error ?? result, ms: performance.now() - started });
    this.post(wrap(outcome));
  }

  note(entry) {
    log.add({ ...entry, ...(this.isModal && { method: `${entry.method} (dialog)` }) });
  }
}

window.addEventListener('message', ({ source, data }) => {
  for (const view of View.all) if (view.frame?.contentWindow === source) view.hear(data);
});
