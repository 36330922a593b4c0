'use strict';

// Where a tool's call and its widget are seen, as in a conversation: what was called, the widget in one of three ways, and what
// it has said.

const stage = {
  /** The call that is shown: its tool, its arguments, its result or why there is none, and what the widget keeps with it. */
  call: null,
  view: null,
  modal: null,
  /** Why no widget is drawn, and what to do about it. */
  trouble: null,
  /** Counts what is to be drawn, so that a document that comes late is not. */
  turn: 0,

  /** Calls a tool, and draws its widget meanwhile, as a host does. */
  async run({ tool, args, address, bridge }) {
    stage.stop();
    const controller = new AbortController();
    const outcome = { result: null, failure: null };
    const call = { tool, args, ...outcome, state: null, modelContext: null, widgetSession: unique(), controller };
    const started = performance.now();
    stage.call = call;
    part('talk').replaceChildren();
    stage.offerApp(null);
    const answered = server.call(tool.name, args, undefined, controller.signal);
    call.id = server.lastId;
    const drawn = stage.show({ address, bridge });
    try {
      call.result = await answered;
    } catch (error) {
      call.failure = error.message;
    }
    call.ms = performance.now() - started;
    if (stage.call === call) {
      stage.tellCall();
      stage.draw();
    }
    await drawn;
  },

  /** Cancels the call that is under way. */
  stop() {
    if (stage.call && !stage.isDone()) stage.call.controller.abort();
  },

  isDone() {
    return Boolean(stage.call?.result || stage.call?.failure);
  },

  /** Draws the call's widget: for the first time, again, or in another language. */
  async show({ address, bridge }) {
    stage.turn += 1;
    const mine = stage.turn;
    stage.trouble = address ? null : 'This tool has no widget. Its answer is under Output.';
    await stage.takeAway('another widget takes its place');
    if (stage.turn !== mine || !address) return;
    try {
      const document = await server.read(address);
      if (stage.turn !== mine) return;
      stage.view = new View({ box: part('box'), call: stage.call, bridge, onChange: stage.draw });
      stage.view.open(document);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (stage.turn !== mine) return;
      stage.trouble = `The widget could not be read: ${error.message}.`;
    }
    stage.draw();
  },

  async takeAway(reason) {
    const { view } = stage;
    stage.view = null;
    part('modal').close();
    stage.draw();
    await view?.close(reason);
  },

  tellCall() {
    for (const view of View.all) if (view.call === stage.call) view.tellCall();
  },

  // === What widgets ask for ===

  /** Draws the widget inline, floating, or over everything. */
  display(mode) {
    host.displayMode = mode;
    const isFull = mode === 'fullscreen';
    part('stage').dataset.display = mode;
    part('bar').hidden = !isFull;
    for (const id of ['head', 'call-form', 'switches', 'panes', 'caption', 'talk']) part(id).inert = isFull;
    // What had the focus may be out of reach now.
    if (isFull && document.activeElement?.closest('[inert]')) part('leave').focus();
    controls.tellDisplay();
    for (const view of View.all) view.tell();
  },

  /** A state that was set is every view's of the call. */
  share(call) {
    for (const view of View.all) if (view.call === call) view.set({ widgetState: call.state });
  },

  say(words) {
    const item = stage.item('message-template');
    item.querySelector('[data-part="words"]').textContent = words;
  },

  offerLink(url) {
    const item = stage.item('link-template');
    const link = item.querySelector('a');
    link.href = url;
    link.textContent = url;
  },

  offerFile({ uri = '', mimeType = 'application/octet-stream', text, blob }) {
    const item = stage.item('file-template');
    const link = item.querySelector('a');
    const bytes = blob === undefined ? text ?? '' : Uint8Array.from(atob(blob), (letter) => letter.charCodeAt(0));
    link.href = URL.createObjectURL(new Blob([bytes], { type: mimeType }));
    link.download = uri.split('/').at(-1) || 'file';
    link.textContent = link.download;
  },

  item(template) {
    const item = part(template).content.firstElementChild.cloneNode(true);
    part('talk').append(item);
    item.scrollIntoView({ block: 'nearest' });
    return item;
  },

  /** Where "Open in" leads in full screen. */
  offerApp(href) {
    const link = part('open-app');
    link.hidden = !href;
    if (href) link.href = href;
    else link.removeAttribute('href');
  },

  async openModal(view, { title, params = null, template }) {
    if (stage.modal) throw new Refusal('there is a dialog already');
    const document = template ? await server.read(template) : view.document;
    const box = part('modal-box');
    part('modal-title').textContent = title ?? 'Widget';
    stage.modal = new View({ box, call: view.call, bridge: view.bridge, isModal: true, params, onChange: stage.draw });
    part('modal').showModal();
    stage.modal.open(document);
  },

  async close(view, reason) {
    if (view.isModal) {
      part('modal').close();
    } else if (view === stage.view) {
      stage.trouble = `The widget is closed: ${reason}.`;
      if (host.displayMode !== 'inline') stage.display('inline');
      await stage.takeAway(reason);
    }
  },

  // === Drawing ===

  /** What there is to be seen, in one word; tests wait for it. */
  phase() {
    if (stage.trouble) return 'without';
    if (!stage.call) return 'idle';
    return stage.view?.phase ?? 'loading';
  },

  draw() {
    const { call } = stage;
    const place = part('stage');
    place.dataset.phase = stage.phase();
    const outcome = call?.failure ? 'failed' : call?.result?.isError ? 'error' : call?.result ? 'done' : 'working';
    place.dataset.call = call ? outcome : 'none';
    part('caption').hidden = !call;
    part('caption-words').textContent = call ? stage.words(outcome) : '';
    part('caption-time').textContent = call?.ms === undefined ? '' : `${Math.round(call.ms)} ms`;
    part('caption-error').hidden = !['failed', 'error'].includes(outcome);
    part('caption-error').textContent = call ? stage.complaint(outcome) : '';
    part('stage-trouble').hidden = !stage.trouble;
    part('stage-words').textContent = stage.trouble ?? '';
    part('bar-title').textContent = stage.title();
    controls.draw();
    panes.draw();
  },

  title() {
    const listed = server.widgets.find(({ uri }) => uri === stage.view?.document?.address);
    return listed?.title ?? stage.view?.name ?? '';
  },

  words(outcome) {
    const { name, _meta: meta = {} } = stage.call.tool;
    return {
      working: meta['openai/toolInvocation/invoking'] ?? `Calling ${name}…`,
      done: meta['openai/toolInvocation/invoked'] ?? `Called ${name}`,
      error: `${name} refused`,
      failed: `${name} was not answered`,
    }[outcome];
  },

  complaint(outcome) {
    if (outcome === 'failed') return `${stage.call.failure}.`;
    if (outcome !== 'error') return '';
    return (stage.call.result.content ?? []).filter(({ type }) => type === 'text').map(({ text }) => text).join('\n');
  },
};

part('modal').addEventListener('close', () => {
  stage.modal?.close('the dialog was closed');
  stage.modal = null;
});
