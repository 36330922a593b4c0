'use strict';

// A widget's document as a host writes it into a frame: what it declares as its policy, then what ChatGPT would have put
// there, then the widget as it was served.

const documents = {
  /** What a widget says of whom it speaks to, in either spelling. */
  domains({ ui = {}, 'openai/widgetCSP': alias = {} }) {
    const csp = ui.csp ?? {};
    return {
      connectDomains: csp.connectDomains ?? alias.connect_domains ?? [],
      resourceDomains: csp.resourceDomains ?? alias.resource_domains ?? [],
      frameDomains: csp.frameDomains ?? alias.frame_domains ?? [],
      baseUriDomains: csp.baseUriDomains ?? [],
    };
  },

  /** The policy of that. Beside the document there is nothing of the widget's own, so there is no `'self'` in it. */
  policy(meta) {
    const declared = documents.domains(meta);
    // What is not an origin could end a directive and begin another.
    const sources = (list) => list.filter((source) => !/[\s;,'"]/.test(source)).join(' ');
    const resources = sources(declared.resourceDomains);
    const orNobody = (list) => sources(list) || "'none'";
    return [
      "default-src 'none'",
      `script-src 'unsafe-inline' ${resources}`,
      `style-src 'unsafe-inline' ${resources}`,
      `img-src data: ${resources}`,
      `media-src data: ${resources}`,
      `font-src ${resources || "'none'"}`,
      `connect-src ${orNobody(declared.connectDomains)}`,
      `frame-src ${orNobody(declared.frameDomains)}`,
      `base-uri ${orNobody(declared.baseUriDomains)}`,
      "object-src 'none'",
      "form-action 'none'",
    ].map((directive) => directive.trim()).join('; ');
  },

  /** For the `allow` of the frame. The widget has no origin that could be named there. */
  permissions({ ui = {} }) {
    const isAsked = (key) => ui.permissions?.[key];
    return ['camera', 'microphone', 'geolocation', 'clipboardWrite'].filter(isAsked)
      .map((key) => `${key === 'clipboardWrite' ? 'clipboard-write' : key} *`).join('; ');
  },

  /** Whether the widget wants a border around it. Without a word it gets one. */
  hasBorder({ ui = {}, 'openai/widgetPrefersBorder': alias }) {
    return ui.prefersBorder ?? alias ?? true;
  },

  /** The document. `openai` are the globals of `window.openai`, where there is to be one. */
  compose({ html, meta }, openai) {
    const pieces = [`<meta http-equiv="Content-Security-Policy" content="${documents.policy(meta)}">`, documents.script(watch)];
    if (openai) pieces.push(documents.script(offerOpenai, openai, Object.keys(openaiMethods)));
    // Into the head, or else as far ahead as the document has no head: before the doctype it would be drawn as in 1998.
    const places = [/<head(?=[\s>])[^>]*>/i, /<html(?=[\s>])[^>]*>/i, /^\s*<!doctype[^>]*>/i];
    const place = places.map((tag) => tag.exec(html)).find(Boolean);
    const at = place ? place.index + place[0].length : 0;
    return html.slice(0, at) + pieces.join('') + html.slice(at);
  },

  script(run, ...args) {
    // Nothing in the arguments may end the script.
    const given = args.map((argument) => JSON.stringify(argument ?? null).replaceAll('<', '\\u003c'));
    // And nothing here may end the script that this is written in.
    return `<script>(${run})(${given.join(', ')});<\/script>`;
  },
};

// === What runs in the widget's frame, and knows nothing of this page ===

/** Tells of what goes wrong in the widget, which nobody outside would see, and how tall it is if it does not say so. */
function watch() {
  const tell = (about, body) => window.parent.postMessage({ widgetTest: about, body }, '*');
  window.addEventListener('error', ({ message, lineno, error }) => {
    // Browsers report this when a size is measured and changed in one turn. It does no harm and says nothing.
    if (message.startsWith('ResizeObserver loop')) return;
    tell('trouble', { what: 'error', message, line: lineno, stack: error?.stack });
  });
  window.addEventListener('unhandledrejection', ({ reason }) => {
    tell('trouble', { what: 'unhandled rejection', message: String(reason?.message ?? reason), stack: reason?.stack });
  });
  window.addEventListener('securitypolicyviolation', ({ effectiveDirective, blockedURI, lineNumber }) => {
    const where = { directive: effectiveDirective, blocked: blockedURI, line: lineNumber };
    tell('trouble', { what: 'refused by the policy', ...where });
  });
  window.addEventListener('DOMContentLoaded', () => {
    const measure = () => tell('height', Math.ceil(document.documentElement.getBoundingClientRect().height));
    new ResizeObserver(() => requestAnimationFrame(measure)).observe(document.documentElement);
  });
}

/** Puts `window.openai` there: values that the page sets, and functions that ask the page. */
function offerOpenai(globals, methods) {
  const asked = new Map();
  let lastId = 0;
  const openai = { ...globals };
  const ask = (method, args) => new Promise((resolve, reject) => {
    lastId += 1;
    asked.set(lastId, { resolve, reject });
    window.parent.postMessage({ openai: 'ask', id: lastId, method, args }, '*');
  });
  const set = (news) => {
    Object.assign(openai, news);
    window.dispatchEvent(new CustomEvent('openai:set_globals', { detail: { globals: news } }));
  };
  for (const method of methods) openai[method] = (...args) => ask(method, args);
  // What a widget keeps it can read in the same turn.
  openai.setWidgetState = (widgetState) => {
    const kept = ask('setWidgetState', [widgetState]);
    set({ widgetState });
    return kept;
  };
  window.addEventListener('message', ({ source, data }) => {
    if (source !== window.parent) return;
    if (data?.openai === 'set') set(data.globals);
    if (data?.openai !== 'answer') return;
    const { resolve, reject } = asked.get(data.id) ?? {};
    asked.delete(data.id);
    if (data.error) reject?.(new Error(data.error));
    else resolve?.(data.result);
  });
  Object.defineProperty(window, 'openai', { value: openai, enumerable: true });
}
