'use strict';

// Every message, in the order in which it came or went: between widget and host in either language, and between host and
// server. And how JSON is drawn, here and in the panes.

const part = (id) => document.getElementById(id);

const log = {
  // A widget that talks without end must not fill the page's memory.
  MOST: 500,
  CLOCK: new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 }),
  count: 0,

  /**
   * Adds a message; its body is drawn when somebody looks at it. `kind`: 'request', 'answer', 'notification', 'error', or
   * 'ignored' where the host does not speak so.
   */
  add({ from, to, method, kind, body, id, ms, language = 'json-rpc' }) {
    const list = part('log');
    // Who reads the end sees what comes; who has scrolled up is left there.
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const item = part('log-template').content.firstElementChild.cloneNode(true);
    Object.assign(item.dataset, { from, to, method, kind, language });
    const write = (name, words) => { item.querySelector(`[data-part="${name}"]`).textContent = words; };
    write('parties', `${from} → ${to}`);
    write('method', method);
    write('kind', ms === undefined ? kind : `${kind}, ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);
    write('time', log.CLOCK.format(new Date()));
    write('language', language === 'openai' ? 'window.openai' : '');
    const details = item.querySelector('details');
    details.addEventListener('toggle', () => {
      const place = details.querySelector('pre');
      if (details.open && !place.hasChildNodes()) place.append(json.draw(id === undefined ? body : { id, body }));
    }, { once: true });
    list.append(item);
    while (list.children.length > log.MOST) list.firstElementChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
    log.tell(log.count + 1);
  },

  clear() {
    part('log').replaceChildren();
    log.tell(0);
  },

  tell(count) {
    log.count = count;
    part('log-count').textContent = count || '';
    part('log-empty').hidden = count > 0;
  },
};

const json = {
  text(value) {
    return value === undefined ? 'nothing' : JSON.stringify(value, null, 2);
  },

  /** A value as colored text. What is in it is only ever text. */
  draw(value) {
    const piece = document.createDocumentFragment();
    const token = /("(?:[^"\\]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
    const text = json.text(value);
    let from = 0;
    for (const match of text.matchAll(token)) {
      const [found, string, colon] = match;
      const word = document.createElement('span');
      word.className = colon ? 'json-key' : string ? 'json-string' : 'json-word';
      word.textContent = colon ? string : found;
      piece.append(text.slice(from, match.index), word, colon ?? '');
      from = match.index + found.length;
    }
    piece.append(text.slice(from));
    return piece;
  },
};
