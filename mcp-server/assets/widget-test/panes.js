'use strict';

// The panes beside the widget: the messages, and what went into the call and came out of it.

const panes = {
  NAMES: ['log', 'input', 'output', 'meta', 'state'],
  current: 'log',

  /** What stands in a pane, as values with a heading each. */
  content: {
    input: () => [['Arguments', stage.call?.args]],
    output: () => {
      const { result, failure } = stage.call ?? {};
      if (failure) return [['Failure', failure]];
      return [['Structured content', result?.structuredContent], ['Content', result?.content]];
    },
    meta: () => [
      ['Result', stage.call?.result?._meta],
      ['Tool', (stage.call?.tool ?? controls.tool())?._meta],
      ['Widget', stage.view?.document?.meta],
      ['Policy', stage.view?.document && documents.policy(stage.view.document.meta).split('; ')],
    ],
    state: () => [['Widget state', stage.call?.state ?? undefined], ['Model context', stage.call?.modelContext ?? undefined]],
  },

  draw() {
    for (const name of panes.NAMES) {
      const isCurrent = name === panes.current;
      const tab = part(`tab-${name}`);
      tab.setAttribute('aria-selected', String(isCurrent));
      tab.tabIndex = isCurrent ? 0 : -1;
      part(`pane-${name}`).hidden = !isCurrent;
    }
    part('log-clear').hidden = panes.current !== 'log';
    if (panes.current !== 'log') panes.fill(part(`pane-${panes.current}`), panes.content[panes.current]());
  },

  fill(pane, values) {
    // What has not changed keeps its place, and what is selected in it.
    const text = JSON.stringify(values.map(([heading, value]) => [heading, json.text(value)]));
    if (pane.dataset.text === text) return;
    pane.dataset.text = text;
    pane.replaceChildren(...values.map(([heading, value]) => {
      const section = part('value-template').content.firstElementChild.cloneNode(true);
      section.querySelector('h3').textContent = heading;
      const place = section.querySelector('pre');
      place.dataset.value = heading;
      if (value === undefined || value === null) place.textContent = 'Nothing yet.';
      else place.append(json.draw(value));
      place.classList.toggle('is-nothing', value === undefined || value === null);
      return section;
    }));
  },

  choose(name) {
    panes.current = name;
    panes.draw();
  },
};

for (const name of panes.NAMES) part(`tab-${name}`).addEventListener('click', () => panes.choose(name));

// Arrows, as in every list of tabs.
part('tabs').addEventListener('keydown', ({ key }) => {
  const at = panes.NAMES.indexOf(panes.current);
  const last = panes.NAMES.length - 1;
  const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[key];
  if (to === undefined) return;
  panes.choose(panes.NAMES[to]);
  part(`tab-${panes.current}`).focus();
});

part('log-clear').addEventListener('click', () => log.clear());
