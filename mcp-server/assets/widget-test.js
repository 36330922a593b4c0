'use strict';

// The controls of the page: what is called, how the host behaves, and the link that says so. And `window.openai` of the page
// itself, which acts on the widget that is drawn.

const controls = {
  LOCALES: ['en-US', 'en-GB', 'de-DE', 'fr-FR', 'es-ES', 'pl-PL', 'ja-JP', 'ar-EG'],
  /** What the link asked for that must wait until the server's tools are known. */
  wished: new URLSearchParams(location.search),

  value(name) {
    return part('switches').elements[name].value;
  },

  /** Sets a switch, if it can be set so. */
  choose(name, value) {
    const choices = [...part('switches').elements[name]];
    const choice = choices.find((choice) => choice.value === value);
    if (choice) part('switches').elements[name].value = value;
    return Boolean(choice);
  },

  tool() {
    return server.tool(part('tool').value);
  },

  /** Whose document is drawn: one that was typed, or the tool's. */
  address() {
    return part('address').value.trim() || server.addressFor(controls.tool(), controls.value('bridge'));
  },

  /** The arguments, or why there are none. */
  args() {
    const complain = (words) => {
      part('arguments-error').hidden = !words;
      part('arguments-error').textContent = words;
      part('arguments').setAttribute('aria-invalid', String(Boolean(words)));
    };
    try {
      const args = JSON.parse(part('arguments').value.trim() || '{}');
      const isObject = typeof args === 'object' && args !== null && !Array.isArray(args);
      complain(isObject ? '' : 'Arguments are an object: { … }');
      return isObject ? args : null;
    } catch (error) {
      complain(error.message);
      return null;
    }
  },

  // === Drawing ===

  draw() {
    const { color, build } = server.release;
    part('release').hidden = !color;
    part('release').dataset.color = color ?? '';
    part('release-words').textContent = `${color} ${build}`;
    const isWorking = stage.call && !stage.isDone();
    part('call').textContent = isWorking ? 'Cancel the call' : 'Call the tool';
    part('call').disabled = !controls.tool();
    part('reload').disabled = !stage.call;
    for (const choice of part('switches').elements.display) {
      choice.disabled = Boolean(stage.view && !stage.view.supports(choice.value));
    }
  },

  tellDisplay() {
    controls.choose('display', host.displayMode);
    controls.link();
  },

  listTools() {
    const groups = [['With a widget', []], ['Without', []]];
    for (const tool of server.tools) {
      const [, options] = groups[server.widgetOf(tool) ? 0 : 1];
      options.push(new Option(tool.title ?? tool.name, tool.name));
    }
    part('tool').replaceChildren(...groups.filter(([, options]) => options.length).map(([label, options]) => {
      const group = Object.assign(document.createElement('optgroup'), { label });
      group.append(...options);
      return group;
    }));
    part('addresses').replaceChildren(...server.widgets.map(({ uri, title, name }) => new Option(title ?? name, uri)));
  },

  describeTool() {
    const tool = controls.tool();
    const { readOnlyHint, destructiveHint } = tool?.annotations ?? {};
    const kind = readOnlyHint ? 'Reads' : destructiveHint === false ? 'Adds' : 'Changes';
    part('tool-name').textContent = tool?.name ?? '';
    part('tool-kind').textContent = tool ? kind : '';
    part('tool-kind').dataset.kind = kind.toLowerCase();
    part('tool-words').textContent = tool?.description ?? '';
    part('address').placeholder = server.addressFor(tool, controls.value('bridge')) ?? 'none: the tool has no widget';
  },

  prefill() {
    part('arguments').value = JSON.stringify(server.example(controls.tool()?.inputSchema ?? {}) ?? {}, null, 2);
    controls.args();
  },

  /** The address of this page as it is now: whoever opens it sees the same. */
  link() {
    if (!controls.tool()) return;
    const args = controls.args();
    const said = {
      tool: part('tool').value,
      arguments: args ? JSON.stringify(args) : part('arguments').value,
      bridge: controls.value('bridge'),
      theme: host.theme,
      display: host.displayMode,
      width: controls.value('width'),
      locale: host.locale,
      address: part('address').value.trim(),
    };
    const kept = Object.entries(said).filter(([, value]) => value);
    history.replaceState(null, '', `?${new URLSearchParams(kept)}`);
  },

  // === Doing ===

  async call() {
    const [tool, args] = [controls.tool(), controls.args()];
    if (!args) {
      part('arguments').focus();
      return;
    }
    controls.link();
    await stage.run({ tool, args, address: controls.address(), bridge: controls.value('bridge') });
  },

  async reload() {
    if (!stage.call) return;
    if (!part('keep').checked) stage.call.state = null;
    await stage.show({ address: controls.address(), bridge: controls.value('bridge') });
  },

  setTheme(theme) {
    host.theme = theme;
    document.documentElement.dataset.theme = theme;
    controls.choose('theme', theme);
  },

  setWidth(width) {
    part('stage').dataset.width = width;
  },

  setLocale(locale) {
    try {
      [host.locale] = Intl.getCanonicalLocales(locale);
    } catch {
      return;
    }
    const select = part('switches').elements.locale;
    if (![...select.options].some(({ value }) => value === host.locale)) select.prepend(new Option(host.locale));
    select.value = host.locale;
  },

  /** Begins as the link says, as far as that does no harm. */
  async begin() {
    const { wished } = controls;
    const prefers = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    controls.setTheme(['light', 'dark'].includes(wished.get('theme')) ? wished.get('theme') : prefers);
    const isSkybridge = wished.get('address')?.endsWith('.skybridge.html');
    controls.choose('bridge', wished.get('bridge') ?? (isSkybridge ? 'openai' : 'both'));
    if (wished.has('width')) controls.choose('width', wished.get('width'));
    controls.setWidth(controls.value('width'));
    part('switches').elements.locale.replaceChildren(...controls.LOCALES.map((locale) => new Option(locale)));
    controls.setLocale(wished.get('locale') ?? navigator.language);
    if (controls.choose('display', wished.get('display'))) stage.display(wished.get('display'));
    await controls.connect();
  },

  async connect() {
    const { wished } = controls;
    try {
      await server.connect();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      stage.trouble = `${error.message}. Load the page again when it is there.`;
      stage.draw();
      return;
    }
    controls.listTools();
    const address = wished.get('address') ?? '';
    const stem = (address) => address?.split('/').slice(0, -1).join('/');
    const drawn = server.tools.filter((tool) => server.widgetOf(tool));
    const matching = drawn.filter((tool) => address && stem(server.widgetOf(tool)) === stem(address));
    const candidates = [matching, drawn, server.tools].find(({ length }) => length > 0) ?? [];
    // One that may be called at once shows most.
    const first = candidates.find((tool) => server.isReadOnly(tool)) ?? candidates[0];
    const tool = server.tool(wished.get('tool')) ?? first;
    part('tool').value = tool?.name ?? '';
    part('address').value = address;
    controls.describeTool();
    controls.prefill();
    if (wished.has('arguments')) part('arguments').value = controls.pretty(wished.get('arguments'));
    const args = controls.args();
    stage.draw();
    const isComplete = args && Object.values(args).every((value) => value !== '');
    if (wished.has('tool') && !server.tool(wished.get('tool'))) stage.trouble = `The server has no tool ${wished.get('tool')}.`;
    // A link must not make somebody's browser change something.
    else if (tool && !server.isReadOnly(tool)) stage.trouble = 'This tool changes something, so it waits for you to call it.';
    else if (tool && isComplete) await controls.call();
    else stage.trouble = tool ? 'Fill in the arguments, and call the tool.' : 'The server has no tools.';
    stage.draw();
  },

  pretty(text) {
    try {
      return JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      return text;
    }
  },
};

// === Who hears what ===

part('call-form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (stage.call && !stage.isDone()) stage.stop();
  else controls.call();
});
part('arguments').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.metaKey || event.ctrlKey)) part('call-form').requestSubmit();
});
part('arguments').addEventListener('change', () => controls.args());
part('tool').addEventListener('change', () => {
  part('address').value = '';
  controls.describeTool();
  controls.prefill();
});
part('address').addEventListener('change', () => {
  controls.link();
  controls.reload();
});
part('reload').addEventListener('click', () => controls.reload());
part('leave').addEventListener('click', () => {
  stage.display('inline');
  part('stage').focus();
});
part('modal-close').addEventListener('click', () => part('modal').close());
part('copy-link').addEventListener('click', async () => {
  controls.link();
  // Without a secure page there is no clipboard; the address bar has the link all the same.
  await navigator.clipboard?.writeText(location.href);
  const words = navigator.clipboard ? 'Copied' : 'It is in the address bar';
  part('copied').textContent = words;
  part('copy-link').textContent = words;
  setTimeout(() => { part('copy-link').textContent = 'Copy link'; }, 2000);
});
window.addEventListener('keydown', ({ key }) => {
  if (key === 'Escape' && host.displayMode === 'fullscreen' && !part('modal').open) part('leave').click();
});

part('switches').addEventListener('submit', (event) => event.preventDefault());
// Some of the switches stand in the head.
document.addEventListener('change', ({ target: { form, name, value } }) => {
  if (form !== part('switches')) return;
  const change = {
    bridge: () => {
      controls.describeTool();
      return controls.reload();
    },
    theme: () => controls.setTheme(value),
    display: () => stage.display(value),
    width: () => controls.setWidth(value),
    locale: () => controls.setLocale(value),
  }[name];
  change?.();
  controls.link();
  for (const view of View.all) view.tell();
});

// === `window.openai` of the page ===

const ownOpenai = {};

for (const method of Object.keys(openaiMethods)) {
  ownOpenai[method] = async (...args) => {
    if (!stage.view) throw new Error('no widget is drawn yet');
    log.add({ from: 'page', to: 'host', kind: 'request', method, body: args, language: 'openai' });
    return openaiMethods[method](stage.view, ...args);
  };
}

// The names of early hosts, which tests of deployments still ask for.
ownOpenai.navigateToFullScreen = () => ownOpenai.requestDisplayMode({ mode: 'fullscreen' });
ownOpenai.createActionRequest = (action, args) => {
  const { name, arguments: own } = typeof action === 'string' ? { name: action, arguments: args } : action ?? {};
  return ownOpenai.callTool(name, own);
};

const nobody = { call: { args: null, result: null, state: null }, box: part('box'), mode: () => host.displayMode, params: null };
for (const key of Object.keys(host.globals(nobody))) {
  Object.defineProperty(ownOpenai, key, { enumerable: true, get: () => host.globals(stage.view ?? nobody)[key] });
}

Object.defineProperty(window, 'openai', { value: ownOpenai, enumerable: true });

controls.begin();
